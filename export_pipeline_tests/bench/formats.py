"""Each format on one collection of events, beside draining that collection raw: time, and memory over an idle process.

Each measurement is a process of its own that reads the collection and writes the file; what it takes to start and to
import is not counted. The drain is measured in the same way and the same run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from pymongo import MongoClient

from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.formats.registry import find_format
from export_pipeline.mongo.bson_stream import PIECE_BYTES, Piece, whole_documents
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline_tests.bench.measure import MB, databases, fill, report

AVERAGE_BYTES = 600
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jsonl_relaxed": ("jsonl", {"json_mode": "relaxed"}),
    "jsonl_canonical": ("jsonl", {"json_mode": "canonical"}),
    "bson": ("bson", {}),
    "csv": ("csv", {}),
    "parquet": ("parquet", {}),
    "parquet_no_doc": ("parquet", {"lossless": False}),
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench formats", description=__doc__)
    parser.add_argument("--documents", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "URI", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        measure(*options.child)
        return
    with embedded_mongo() as uri, MongoClient[Any](uri) as client, tempfile.TemporaryDirectory() as folder:
        (events,) = databases(client, "bench", ["events"])
        documents = fill(events, options.documents * AVERAGE_BYTES, "heavy")
        child("drain", uri, folder)  # the server's cache is warm from here on
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.rounds):
            for kind in ("drain", *KINDS):
                found.setdefault(kind, []).append(child(kind, uri, folder))
    seconds = {kind: median(run["seconds"] for run in runs) for kind, runs in found.items()}
    memory = {kind: max(run["grown_mb"] for run in runs) for kind, runs in found.items()}
    rows = [
        {
            "what": kind,
            "seconds": taken,
            "ratio": taken / seconds["drain"],
            "documents/s": documents / taken,
            "MB over idle": memory[kind],
        }
        for kind, taken in seconds.items()
    ]
    ratios = {kind: round(seconds[kind] / seconds["drain"], 2) for kind in KINDS}
    figures = {"documents": documents, "drain_seconds": round(seconds["drain"], 3), "mb_over_idle": memory}
    report("formats", rows, {**ratios, **figures})


def child(kind: str, uri: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "export_pipeline_tests.bench", "formats", "--child", kind, uri, f"{folder}/file"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(kind: str, uri: str, file: str) -> None:
    import resource

    with MongoClient[Any](uri) as client:
        client.admin.command("ping")
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        if kind == "drain":
            for _ in client["bench"]["events"].find_raw_batches({"uid": "heavy"}):
                pass
        else:
            write(kind, client, Path(file))
        seconds = time.perf_counter() - begun
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) * 1024 / MB
    print(json.dumps({"seconds": seconds, "grown_mb": round(grown, 1)}))


def write(kind: str, client: MongoClient[Any], file: Path) -> None:
    name, given = KINDS[kind]
    format_, options = find_format(name), WriteOptions(**given)

    def pieces() -> Any:
        for batch in client["bench"]["events"].find_raw_batches({"uid": "heavy"}):
            yield from cut(batch)

    survey = format_.survey(options)
    if survey is not None:
        for piece in pieces():
            survey.see("events", piece)
    with file.open("wb") as sink:
        writer = format_.writer(sink, options, survey)
        for piece in pieces():
            writer.write("events", piece)
        writer.end_collection()
        writer.close()


def cut(batch: bytes) -> Any:
    """Yield a batch in pieces of the size in which slices are read."""
    offsets, end = whole_documents(batch)
    start = 0
    while start < len(offsets):
        stop = start + 1
        while stop < len(offsets) and offsets[stop] - offsets[start] < PIECE_BYTES:
            stop += 1
        limit = offsets[stop] if stop < len(offsets) else end
        yield Piece(batch[offsets[start] : limit], [offset - offsets[start] for offset in offsets[start:stop]])
        start = stop
