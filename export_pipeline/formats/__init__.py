"""The output formats, one module each behind one small protocol, and Extended JSON."""
