"""One heavy user: how fast the export is beside draining the same collections raw, and how its memory grows.

Each export is a process of its own, from the command to its end, so its start-up counts too.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pymongo import MongoClient

from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline_tests.bench.measure import MB, Measured, databases, drain, fill, report, run_child

COLLECTIONS = 4
SMALL_MB = 10
KINDS = {
    "json_relaxed": ("json", "relaxed"),
    "json_canonical": ("json", "canonical"),
    "parquet": ("parquet", "canonical"),
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench export", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="BSON of the large user")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    options = parser.parse_args(arguments)
    with embedded_mongo() as uri, MongoClient[Any](uri) as client, tempfile.TemporaryDirectory() as folder:
        catalog = Path(folder, "catalog.yaml")
        names = [f"events_{number}" for number in range(COLLECTIONS)]
        entries = [
            f"- {{name: {name}, plugin: bench, collection: '{name}_{{app_id}}', user_key: uid}}" for name in names
        ]
        catalog.write_text("\n".join(["version: 1", "collections:", *entries]))
        sizes = {"small": SMALL_MB * MB, "large": options.megabytes * MB}
        collections, documents = {}, {}
        for app, size in sizes.items():
            collections[app] = list(databases(client, "bench", [f"{name}_{app}" for name in names]))
            documents[app] = sum(fill(collection, size // COLLECTIONS, "heavy") for collection in collections[app])

        def export(app: str, format_: str, mode: str) -> Measured:
            environment = {
                "PATH": os.environ["PATH"],
                "DAGSTER_HOME": folder,
                "EXPORT_PIPELINE_MONGO_URI": uri,
                "EXPORT_PIPELINE_MONGO_DATABASE": "bench",
                "EXPORT_PIPELINE_CATALOG": str(catalog),
            }
            command = [sys.executable, "-m", "export_pipeline", "export", "--app", app, "--uid", "heavy"]
            command += ["--format", format_, "--json-mode", mode, "--output", str(Path(folder, f"{app}.out"))]
            return run_child(command, environment)

        megabytes = drain(collections["large"], {"uid": "heavy"})[1] / MB  # and the server's cache is warm now
        floor = median(drain(collections["large"], {"uid": "heavy"})[0] for _ in range(options.rounds))
        rows = [row("drain", floor, floor, megabytes, documents["large"])]
        for kind, (format_, mode) in KINDS.items():
            small = export("small", format_, mode)
            large = [export("large", format_, mode) for _ in range(options.rounds)]
            peaks = small.peak_bytes / MB, max(run.peak_bytes for run in large) / MB
            seconds = median(run.seconds for run in large)
            rows.append(row(kind, seconds, floor, megabytes, documents["large"], *peaks))
    kinds = rows[1:]
    figures = {
        "documents": documents["large"],
        "megabytes": round(megabytes, 1),
        "drain_seconds": round(floor, 3),
        "ratio": {item["what"]: round(item["ratio"], 2) for item in kinds},
        "documents_per_s": {item["what"]: round(item["documents/s"]) for item in kinds},
        "mb_per_s": {item["what"]: round(item["MB/s"], 1) for item in kinds},
        "peak_growth_mb": {item["what"]: round(item["peak MB"] - item["peak MB at 10 MB"], 1) for item in kinds},
    }
    report("export", rows, figures)


def row(
    what: str, seconds: float, floor: float, megabytes: float, documents: int, small: float = 0.0, large: float = 0.0
) -> dict[str, Any]:
    return {
        "what": what,
        "seconds": seconds,
        "ratio": seconds / floor,
        "MB/s": megabytes / seconds,
        "documents/s": documents / seconds,
        "peak MB at 10 MB": small,
        "peak MB": large,
    }
