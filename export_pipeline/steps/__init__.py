"""The steps from a request to its package, apart from each other; ``exporter.py`` puts them together."""
