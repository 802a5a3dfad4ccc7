"""Restoring a backup in BSON, beside PyMongo's ``insert_many`` of the same raw documents with two threads.

Both end with the same: collections with their documents and an index on uid, which ``insert_many`` has from the start.
The restore also reads every part twice, and every collection back, to compare them. The documents of ``insert_many``
are in memory, which limits how large a run can be. Each is measured several times, in turn; the median counts.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from export_pipeline.backups.backup import Backups
from export_pipeline.backups.restore import Restore
from export_pipeline.backups.restore_plan import Wish
from export_pipeline.backups.restore_source import find_backup
from export_pipeline.installation import Installation
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.packages.layers import NO_KEYS
from export_pipeline.requests.backups import NewBackup
from export_pipeline.settings import Settings
from export_pipeline_tests.bench.measure import MB, cpu_seconds, databases, events, insert, report

APP = "64b1f0a2c3d4e5f60718293a"
THREADS = 2
RATIO_LIMIT = 1.3
BATCH = 5000


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench restore", description=__doc__)
    parser.add_argument("--documents", type=int, default=400_000)
    parser.add_argument("--collections", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    options = parser.parse_args(arguments)
    with embedded_mongo() as uri, MongoClient[Any](uri) as client, tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), mongo_uri=uri, mongo_database="bench")
        with Installation(settings) as installation:
            documents = list(islice(events("heavy"), options.documents // options.collections))
            names = [f"events{number}_{APP}" for number in range(options.collections)]
            for collection in databases(client, "bench", names):
                insert(collection, iter(documents))
            backups = Backups(installation)
            request = backups.submit(NewBackup(APP), run_here=True)
            backups.run(request)
            client.drop_database("bench")
            rounds = [one_round(installation, client, request.id, names, documents) for _ in range(options.rounds)]
    seconds = {what: median(found[what][0] for found in rounds) for what in rounds[0]}
    cpu = {what: median(found[what][1] for found in rounds) for what in rounds[0]}
    # Of each round by itself: on a shared machine both of a round had the same neighbours.
    ratio = median(found["restore"][0] / found["insert_many"][0] for found in rounds)
    size = sum(len(document.raw) for document in documents) * options.collections
    rows = [
        {
            "what": what,
            "seconds": seconds[what],
            "cpu_s here": cpu[what],
            "MB/s": size / MB / seconds[what],
            "ratio": seconds[what] / seconds["insert_many"],
        }
        for what in seconds
    ]
    verdict = "within" if ratio <= RATIO_LIMIT else "OVER"
    figures = {
        "restore": round(ratio, 2),
        "limit": RATIO_LIMIT,
        "documents": len(documents) * options.collections,
        "mb": round(size / MB, 1),
        "insert_many_seconds": round(seconds["insert_many"], 3),
        "restore_seconds": round(seconds["restore"], 3),
    }
    report("restore", rows, figures, [f"restore: {ratio:.2f} times insert_many, {verdict} the limit of {RATIO_LIMIT}"])


def one_round(
    installation: Installation,
    client: MongoClient[Any],
    backup: str,
    names: Sequence[str],
    documents: Sequence[RawBSONDocument],
) -> dict[str, tuple[float, float]]:
    """Do both once; return the seconds and this process's seconds of CPU of each."""

    def insert_many(name: str) -> None:
        for start in range(0, len(documents), BATCH):
            client["inserted"][name].insert_many(documents[start : start + BATCH], ordered=False)

    found = {}
    for what in ("insert_many", "restore"):
        collections = list(databases(client, "inserted", names)) if what == "insert_many" else []
        cpu, begun = cpu_seconds(), time.perf_counter()
        if collections:
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(insert_many, names))
        else:
            wish = Wish(["restored"], threads=THREADS)
            restoring = Restore(installation, find_backup(installation, backup), client, wish, NO_KEYS)
            restoring.run()
            restoring.forget()
        found[what] = (time.perf_counter() - begun, cpu_seconds() - cpu)
    for database in ("inserted", "restored"):
        client.drop_database(database)
    return found
