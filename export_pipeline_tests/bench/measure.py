"""What the benchmarks share: generated events, the yardstick (draining them raw), children's memory, the report."""

import json
import os
import random
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any

import bson
import psutil
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
    device = {"rs": "1080x2400", "abi": "arm64-v8a"}
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
        "up": user | device | {"fs": 1_700_000_000, "ls": bson.Int64(moment // 1000)},
        "sg": segments,
        "custom": custom,
        "lsid": f"{rng.getrandbits(96):024x}",
        "lvid": f"{rng.getrandbits(96):024x}",
        "cid": f"{rng.getrandbits(128):032x}",
    }


def events(uid: str, seed: int = 1) -> Iterator[RawBSONDocument]:
    """Yield events of ``uid`` without end, the same ones for the same seed."""
    rng = random.Random(seed)
    return (RawBSONDocument(bson.encode(event(number, rng, uid))) for number in count())


def insert(collection: Collection[Any], documents: Iterator[RawBSONDocument]) -> int:
    """Insert documents; return how many."""
    inserted = 0
    while batch := list(islice(documents, 5000)):
        collection.insert_many(batch, ordered=False)
        inserted += len(batch)
    return inserted


def fill(collection: Collection[Any], size: int, uid: str) -> int:
    """Insert events of ``uid`` until ``size`` bytes of BSON are reached; return how many."""
    left = size

    def until_full() -> Iterator[RawBSONDocument]:
        nonlocal left
        for document in events(uid):
            if left <= 0:
                return
            left -= len(document.raw)
            yield document

    return insert(collection, until_full())


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


def forget_peak() -> None:
    """Let this process's peak of resident memory begin anew from what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the peak of this process's resident memory, of its children's, and of its files in memory.

    Not ``getrusage``: there a process begins with the peak of the one that started it.
    """
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(_peak_bytes(process.pid) for process in processes) + sum(
        map(_file_in_memory, Path("/proc/self/fd").iterdir())
    )


def _peak_bytes(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024


def _file_in_memory(path: Path) -> int:
    with suppress(FileNotFoundError):  # closed by another thread, or what the listing itself had open
        if str(path.readlink()).startswith("/memfd:"):
            return path.stat().st_blocks * 512
    return 0


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(
    name: str, rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Any], verdicts: Sequence[str] = ()
) -> None:
    """Print a table for people, what it comes to, and then the one line for programs."""
    table = Table(*rows[0], title=name, title_justify="left")
    for row in rows:
        table.add_row(*(f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console(width=140)
    console.print(table)
    for verdict in verdicts:
        console.print(verdict)
    print(json.dumps({"benchmark": name, **figures, "cores": os.cpu_count()}))


def databases(client: MongoClient[Any], name: str, collections: Sequence[str]) -> Iterator[Collection[Any]]:
    """Yield new collections with an index on ``uid``."""
    for collection in collections:
        client[name].drop_collection(collection)
        client[name][collection].create_index("uid")
        yield client[name][collection]
