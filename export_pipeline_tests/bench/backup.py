"""A whole app, backed up, beside draining the same collections raw, in one run: time, and how memory grows.

Each measurement is a process of its own; what it takes to start, to import and to connect is not counted. For 10 GB:
``bench backup --megabytes 10000 --rounds 1 --only bson`` (about 25 GB of disk). ``--folder /dev/shm`` leaves the disk
out, which a drain does not wait for.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from pymongo import MongoClient

from export_pipeline.backups.backup import Backups
from export_pipeline.installation import Installation
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.requests.backups import NewBackup
from export_pipeline.settings import Settings
from export_pipeline_tests.bench.formats import Figures, verdict
from export_pipeline_tests.bench.measure import (
    MB,
    cpu_seconds,
    databases,
    drain,
    fill,
    forget_peak,
    peak_bytes,
    report,
)

COLLECTIONS = 12
SMALL_MB = 100
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "bson": ({"format": "bson"}, 1),
    "bson_2": ({"format": "bson"}, 2),
    "bson_zstd": ({"format": "bson", "compression": "zstd"}, 1),
    "jsonl": ({"format": "jsonl"}, 1),
}
LIMITS = {"bson": 1.3, "bson_zstd": 1.6, "jsonl": 9.0}
GROWTH_LIMIT_MB = 60.0


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench backup", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="BSON of the app")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--only", default=",".join(KINDS), metavar="KIND,...", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--folder", help="where the data and the backups go meanwhile")
    parser.add_argument("--child", nargs=4, metavar=("KIND", "URI", "APP", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    kinds = options.only.split(",")
    with (
        embedded_mongo() as uri,
        MongoClient[Any](uri) as client,
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
    ):
        names = [f"events{number:02}_" for number in range(COLLECTIONS)]
        entries = [
            f"- {{name: {name}x, plugin: bench, collection: '{name}{{app_id}}', user_key: uid}}" for name in names
        ]
        Path(folder, "catalog.yaml").write_text("\n".join(["version: 1", "collections:", *entries]))
        documents = 0
        for app, megabytes in {"small": min(SMALL_MB, options.megabytes), "large": options.megabytes}.items():
            for collection in databases(client, "bench", [name + app for name in names]):
                found = fill(collection, megabytes * MB // COLLECTIONS, "heavy")
                documents += found if app == "large" else 0
        child("drain", uri, "large", folder)  # the server's cache is warm from here on
        small = {kind: child(kind, uri, "small", folder)["mb"] for kind in kinds}
        rounds = [
            {kind: child(kind, uri, "large", folder) for kind in ("drain", *kinds)} for _ in range(options.rounds)
        ]
    seconds = {kind: median(each[kind]["seconds"] for each in rounds) for kind in rounds[0]}
    # Of each round's own drain: the machine may be another's for a while.
    ratios = {
        kind: round(median(each[kind]["seconds"] / each["drain"]["seconds"] for each in rounds), 2) for kind in kinds
    }
    memory = {kind: max(each[kind]["mb"] for each in rounds) for kind in kinds}
    growth = {kind: round(memory[kind] - small[kind], 1) for kind in kinds}
    rows = [
        {
            "what": kind,
            "seconds": taken,
            "ratio": taken / seconds["drain"] if kind == "drain" else ratios[kind],
            "MB/s": options.megabytes / taken,
            "cpu_s": median(each[kind]["cpu_s"] for each in rounds),
            f"MB over idle at {SMALL_MB} MB": small.get(kind, 0.0),
            "MB over idle": memory.get(kind, 0.0),
        }
        for kind, taken in seconds.items()
    ]
    limits = LIMITS | ({"bson_2": ratios["bson"]} if "bson" in ratios else {})
    verdicts = [
        verdict("time as a multiple of the drain", ratios, limits),
        verdict("MB that memory grows by", growth, dict.fromkeys(kinds, GROWTH_LIMIT_MB)),
    ]
    figures = {
        "documents": documents,
        "megabytes": options.megabytes,
        "drain_seconds": round(seconds["drain"], 3),
        "mb_over_idle": {kind: round(value, 1) for kind, value in memory.items()},
        "peak_growth_mb": growth,
    }
    report("backup", rows, {**ratios, **figures}, verdicts)


def child(kind: str, uri: str, app: str, folder: str) -> Figures:
    command = [sys.executable, "-m", "export_pipeline_tests.bench", "backup", "--child", kind, uri, app, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def measure(kind: str, uri: str, app: str, folder: str) -> Figures:
    """Be the process that is measured: one that has imported and connected all it needs is idle."""
    home = Path(folder, "home")
    shutil.rmtree(home, ignore_errors=True)
    os.sync()  # what the one before wrote must not be this one's to wait for
    settings = Settings(home=home, mongo_uri=uri, mongo_database="bench", catalog=Path(folder, "catalog.yaml"))
    with Installation(settings) as installation:
        backups = Backups(installation)
        installation.client.admin.command("ping")
        assert installation.catalog.entries
        assert not installation.requests.latest()
        forget_peak()
        idle, cpu, begun = peak_bytes(), cpu_seconds(), time.perf_counter()
        if kind == "drain":
            collections = [
                installation.client["bench"][entry.collection_of(app)] for entry in installation.catalog.entries
            ]
            drain(collections, {})
        else:
            form, processes = KINDS[kind]
            row = backups.submit(NewBackup(app, form), run_here=True)
            backups.run(row, processes)
        seconds = time.perf_counter() - begun
        peak = peak_bytes()
    return {"seconds": seconds, "cpu_s": cpu_seconds() - cpu, "mb": (peak - idle) / MB}
