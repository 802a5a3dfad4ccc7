"""Faults on purpose: every server and process of an installation killed at every stage, and a soak.

``python -m export_pipeline_tests.faults`` runs the matrix, ``… soak`` the soak.
"""
