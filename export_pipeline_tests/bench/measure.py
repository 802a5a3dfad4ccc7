"""What the benchmarks share: generated events, the yardstick (draining them raw), children's memory, the report."""

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection
from rich.console import Console
from rich.table import Table

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """What a child process took."""

    seconds: float
    peak_bytes: int


def event(number: int, rng: random.Random, uid: str) -> dict[str, Any]:
    """One event-like document of about 600 bytes: nested, with dates, numbers and text."""
    moment = 1_750_000_000_000 + number * 997
    user = {"p": "Android", "d": "Pixel 8", "av": "5:2:1", "cc": "DE", "cty": "München", "la": "de", "sc": number % 99}
    segments = {"name": f"screen {number % 50}", "visit": 1, "start": bool(number % 2), "segment": "Страница"}
    custom = {"plan": "trial", "credits": number % 400, "note": "a note in a few words", "tags": ["a", "b"]}
    return {
        "_id": f"{number:024x}",
        "uid": uid,
        "did": f"{rng.getrandbits(64):016x}",
        "ts": bson.Int64(moment),
        "cd": datetime.fromtimestamp(moment / 1000, UTC),
        "e": "[CLY]_view" if number % 3 else "purchase",
        "c": number % 7,
        "s": number % 1000 / 8,
        "dur": 0.5,
        "up": user | {"fs": 1_700_000_000, "ls": bson.Int64(moment // 1000)},
        "sg": segments,
        "custom": custom,
        "lsid": f"{rng.getrandbits(96):024x}",
        "lvid": f"{rng.getrandbits(96):024x}",
        "cid": f"{rng.getrandbits(128):032x}",
    }


def fill(collection: Collection[Any], size: int, uid: str, *, first: int = 0, seed: int = 1) -> int:
    """Insert events of ``uid`` until ``size`` bytes of BSON are reached; return how many."""
    rng = random.Random(seed)
    documents, written, batch = 0, 0, []
    while written < size:
        raw = bson.encode(event(first + documents, rng, uid))
        batch.append(RawBSONDocument(raw))
        written += len(raw)
        documents += 1
        if len(batch) == 5000:
            collection.insert_many(batch, ordered=False)
            batch.clear()
    if batch:
        collection.insert_many(batch, ordered=False)
    return documents


def drain(collections: Sequence[Collection[Any]], selector: Mapping[str, Any]) -> tuple[float, int]:
    """Read everything that matches as raw batches and drop it: the yardstick. Returns seconds and bytes."""
    begun, size = time.perf_counter(), 0
    for collection in collections:
        for batch in collection.find_raw_batches(selector):
            size += len(batch)
    return time.perf_counter() - begun, size


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a command to its end and measure its wall time and its peak resident memory."""
    begun = time.perf_counter()
    with subprocess.Popen(command, env=dict(environment), stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return Measured(time.perf_counter() - begun, usage.ru_maxrss * 1024)


def report(name: str, rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> None:
    """Print a table for people and then the one line for programs."""
    table = Table(*rows[0], title=name, title_justify="left")
    for row in rows:
        table.add_row(*(f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=140).print(table)
    print(json.dumps({"benchmark": name, **figures, "cores": os.cpu_count()}))


def databases(client: MongoClient[Any], name: str, collections: Sequence[str]) -> Iterator[Collection[Any]]:
    """Yield new collections with an index on ``uid``."""
    for collection in collections:
        client[name].drop_collection(collection)
        client[name][collection].create_index("uid")
        yield client[name][collection]
