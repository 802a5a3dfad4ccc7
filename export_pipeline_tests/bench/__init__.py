"""The benchmarks: ``python -m export_pipeline_tests.bench NAME``."""
