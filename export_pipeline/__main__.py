"""``python -m export_pipeline`` is the command line too."""

from export_pipeline.cli import main

main()
