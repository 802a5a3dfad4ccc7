"""Runs a benchmark by its name; each prints a table for people and ends with one line of JSON."""

import importlib
import sys
from pathlib import Path

SHARED = {"crowd", "daemon", "http_clients", "http_server", "measure", "trivial"}
NAMES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if not path.stem.startswith("_") and path.stem not in SHARED
)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in NAMES:
        print(f"usage: python -m export_pipeline_tests.bench {{{','.join(NAMES)}}} [--help]", file=sys.stderr)
        return 2
    importlib.import_module(f"export_pipeline_tests.bench.{arguments[0]}").main(arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
