"""Catalogue entries from the mongoexport commands that plugins already have."""
