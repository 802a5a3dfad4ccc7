"""Packages: one request's file and its manifest. Assembling, verifying, publishing."""
