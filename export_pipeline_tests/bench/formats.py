"""Each format on one collection of events, beside draining that collection raw: time, and memory over an idle process.

Each measurement is a process of its own that reads the collection and writes the file; what it takes to start and to
import is not counted. The drain is measured in the same way and the same run. At last each format writes ten times as
many documents, once, for its memory alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection

from export_pipeline.formats.json_text import JsonLines
from export_pipeline.formats.protocol import Format, WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.mongo.bson_stream import PIECE_BYTES, Piece, whole_documents
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline_tests.bench.measure import (
    MB,
    cpu_seconds,
    databases,
    events,
    forget_peak,
    insert,
    peak_bytes,
    report,
)

AVERAGE_BYTES = 600
KINDS: dict[str, tuple[Format, WriteOptions]] = {
    "jsonl_relaxed": (FORMATS["jsonl"], WriteOptions(json_mode="relaxed")),
    "jsonl_relaxed_2": (JsonLines(processes=2), WriteOptions(json_mode="relaxed")),
    "jsonl_canonical": (FORMATS["jsonl"], WriteOptions(json_mode="canonical")),
    "bson": (FORMATS["bson"], WriteOptions()),
    "csv": (FORMATS["csv"], WriteOptions()),
    "excel": (FORMATS["excel"], WriteOptions()),
    "html": (FORMATS["html"], WriteOptions()),
    "parquet": (FORMATS["parquet"], WriteOptions(lossless=True)),
    "parquet_no_doc": (FORMATS["parquet"], WriteOptions(lossless=False)),
}
RATIO_LIMITS = {
    "jsonl_relaxed": 5.0,
    "jsonl_relaxed_2": 3.0,
    "jsonl_canonical": 9.0,
    "bson": 1.3,
    "parquet": 9.0,
    "parquet_no_doc": 6.0,
}
MEMORY_LIMIT_MB = 150.0

Figures = dict[str, float]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench formats", description=__doc__)
    parser.add_argument("--documents", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--only", type=kinds, default=list(KINDS), metavar="KIND,...", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--large", type=int, default=10, help="how many times as many for memory; 0 leaves that out")
    parser.add_argument("--child", nargs=4, metavar=("KIND", "URI", "COLLECTION", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    with embedded_mongo() as uri, MongoClient[Any](uri) as client, tempfile.TemporaryDirectory() as folder:
        ((small, documents),) = load(client, "events", options.documents)
        child("drain", uri, small, folder)  # the server's cache is warm from here on
        rounds = [
            {kind: child(kind, uri, small, folder) for kind in ("drain", *options.only)} for _ in range(options.rounds)
        ]
        larges = load(client, "many_events", options.documents * options.large)
        grown = {kind: child(kind, uri, large, folder)["mb"] for large, _ in larges for kind in options.only}
    seconds = {kind: median(found[kind]["seconds"] for found in rounds) for kind in rounds[0]}
    cpu = {kind: median(found[kind]["cpu_s"] for found in rounds) for kind in rounds[0]}
    memory = {kind: max(found[kind]["mb"] for found in rounds) for kind in rounds[0]}
    rows = [
        {
            "what": kind,
            "seconds": taken,
            "ratio": taken / seconds["drain"],
            "cpu_s": cpu[kind],
            "documents/s": documents / taken,
            "MB over idle": memory[kind],
            **({f"at {options.large} times": grown.get(kind, "-")} if grown else {}),
        }
        for kind, taken in seconds.items()
    ]
    ratios = {kind: round(seconds[kind] / seconds["drain"], 2) for kind in options.only}
    figures = {
        "documents": documents,
        "drain_seconds": round(seconds["drain"], 3),
        "cpu_s": rounded(cpu),
        "mb_over_idle": rounded(memory),
        **({f"mb_over_idle_{options.large}x": rounded(grown)} if grown else {}),
    }
    verdicts = [
        verdict("time as a multiple of the drain", ratios, RATIO_LIMITS),
        *(verdict("MB over idle", found, dict.fromkeys(KINDS, MEMORY_LIMIT_MB)) for found in (memory, grown) if found),
    ]
    report("formats", rows, {**ratios, **figures}, verdicts)


def kinds(names: str) -> list[str]:
    chosen = names.split(",")
    if unknown := set(chosen) - set(KINDS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: known are {', '.join(KINDS)}")
    return chosen


def load(client: MongoClient[Any], name: str, documents: int) -> Iterator[tuple[str, int]]:
    """Yield the name of a new collection of so many events, and how many it holds; nothing for none."""
    for collection in databases(client, "bench", [name] if documents else []):
        yield name, insert(collection, islice(events("heavy"), documents))


def rounded(found: Mapping[str, float]) -> Figures:
    return {kind: round(value, 2) for kind, value in found.items()}


def verdict(what: str, found: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """Say which figures are over their limits.

    >>> verdict("MB over idle", {"bson": 20.0, "csv": 160.0}, {"bson": 150.0, "csv": 150.0})
    'MB over idle: csv 160.0 is over 150.0'
    """
    over = [f"{kind} {found[kind]:.1f} is over {limit}" for kind, limit in limits.items() if found.get(kind, 0) > limit]
    return f"{what}: {', '.join(over) or 'all within the limits'}"


def child(kind: str, uri: str, collection: str, folder: str) -> Figures:
    command = [sys.executable, "-m", "export_pipeline_tests.bench", "formats"]
    command += ["--child", kind, uri, collection, f"{folder}/file"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def measure(kind: str, uri: str, collection: str, file: str) -> Figures:
    """Be the process that is measured: one that has imported and connected all it needs is idle."""
    with MongoClient[Any](uri) as client:
        client.admin.command("ping")
        if kind.startswith("parquet"):
            import pyarrow.parquet  # noqa: F401  # the writer would, and it takes a tenth of a second and 45 MB
        forget_peak()
        idle, cpu, begun = peak_bytes(), cpu_seconds(), time.perf_counter()
        if kind == "drain":
            for _ in client["bench"][collection].find_raw_batches({}):
                pass
            peak = peak_bytes()
        else:
            peak = write(*KINDS[kind], client["bench"][collection], Path(file))
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "cpu_s": cpu_seconds() - cpu, "mb": (peak - idle) / MB}


def write(format_: Format, options: WriteOptions, collection: Collection[Any], file: Path) -> int:
    """Write the collection to a file; return the peak of memory on the way."""
    survey = format_.survey(options)
    if survey is not None:
        for piece in pieces(collection):
            survey.see(collection.name, piece)
    with file.open("wb") as sink:
        writer = format_.writer(sink, options, survey)
        for piece in pieces(collection):
            writer.write(collection.name, piece)
        writer.end_collection()
        peak = peak_bytes()  # after this, other processes that took part are gone
        writer.close()
    return max(peak, peak_bytes())


def pieces(collection: Collection[Any]) -> Iterator[Piece]:
    """Read the collection in pieces of the size in which slices are read."""
    for batch in collection.find_raw_batches({}, batch_size=PIECE_BYTES // AVERAGE_BYTES):
        yield Piece(batch, whole_documents(batch)[0])
