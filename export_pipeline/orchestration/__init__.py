"""Dagster's shell over the library, one module per concept. Nothing else but definitions.py imports Dagster."""
