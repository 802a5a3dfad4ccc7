"""A backlog: requests of one user each, from insertion to the last that is completed, beside a plain loop.

The pipeline runs as in production: Dagster's daemon, a run process for each batch, SQLite, a local directory. Then the
same requests go through the library without Dagster, a process for each batch, which tells Dagster's share.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
from pymongo import MongoClient

from export_pipeline.exporter import Exporter
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.orchestration.names import BATCH_TAG
from export_pipeline.requests.batched import BatchedWork
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline_tests.bench import crowd
from export_pipeline_tests.bench.daemon import dagster_daemon, environment, export_one, wait_until
from export_pipeline_tests.bench.measure import report

RATIO_LIMIT = 1.5


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench backlog", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--collections", type=int, default=20)
    parser.add_argument("--documents", type=int, default=40_000, help="in each collection")
    parser.add_argument("--each", type=int, default=20, help="documents of one user in each collection")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--child", nargs="+", metavar="ID", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(serve(options.child)))
        return
    with ExitStack() as stack:
        uri = stack.enter_context(embedded_mongo())
        client = stack.enter_context(MongoClient[Any](uri))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        collections = crowd.load(client, options.collections, options.documents, options.each)
        catalog = folder / "catalog.yaml"
        crowd.write_catalog(catalog, options.collections)
        uids = [crowd.uid(number) for number in range(options.requests)]
        crowd.plain_loop(collections, uids, folder / "warm")  # the server's cache

        def installation(name: str) -> Settings:
            (folder / name).mkdir()
            return Settings(home=folder / name, mongo_uri=uri, mongo_database=crowd.DATABASE, catalog=catalog)

        settings = installation("home")
        exporter = stack.enter_context(Exporter(settings))
        instance = stack.enter_context(dagster_daemon(settings))
        export_one(exporter, NewRequest(crowd.APP, uids[:1]))  # now the daemon has started
        rounds = []
        for number in range(options.rounds):
            loop = crowd.plain_loop(collections, uids, folder / f"loop-{number}")
            backlog = drain(exporter, instance, uids)
            alone = library(installation(f"alone-{number}"), uids)
            rounds.append({**backlog, "library": alone, "loop": loop})
    found = {name: median(figures[name] for figures in rounds) for name in rounds[0]}
    ratio = median(figures["seconds"] / figures["loop"] for figures in rounds)
    rows = [
        row("plain loop", found["loop"], found["loop"], options.requests),
        row("the backlog, from insertion to the last completed", found["seconds"], found["loop"], options.requests),
        row("  until the first run was created", found["to_run"], found["loop"]),
        row("  from there until the last run began to work", found["to_work"], found["loop"]),
        row("  from there until the last was completed", found["at_work"], found["loop"]),
        row("the library alone, a process for each batch", found["library"], found["loop"], options.requests),
        row("Dagster's share", found["seconds"] - found["library"], found["loop"]),
    ]
    share = 1 - found["library"] / found["seconds"]
    verdict = "within" if ratio <= RATIO_LIMIT else "OVER"
    report(
        "backlog",
        rows,
        {
            "requests": options.requests,
            "seconds": round(found["seconds"], 3),
            "ratio": round(ratio, 3),
            "loop_seconds": round(found["loop"], 3),
            "library_seconds": round(found["library"], 3),
            "dagster_share": round(share, 3),
            "ratios": [round(figures["seconds"] / figures["loop"], 3) for figures in rounds],
        },
        [f"ratio to the plain loop: {ratio:.2f}, {verdict} the limit of {RATIO_LIMIT}; Dagster's share: {share:.0%}"],
    )


def row(what: str, seconds: float, loop: float, requests: int | None = None) -> dict[str, Any]:
    return {
        "what": what,
        "seconds": seconds,
        "of the loop": seconds / loop,
        "requests/s": requests / seconds if requests else "",
    }


def submit(exporter: Exporter, uids: Sequence[str]) -> list[str]:
    """Insert a request for each user, all in one transaction."""
    requests = [NewRequest(crowd.APP, [uid]) for uid in uids]
    for new in requests:
        exporter.check(new)
    return [request.id for request in BatchedWork.beside(exporter.requests).submit(requests)]


def drain(exporter: Exporter, instance: dg.DagsterInstance, uids: Sequence[str]) -> dict[str, float]:
    """Insert a request for each user and wait for the last; return seconds: all of them, and on which way."""
    inserted = time.time()
    ids = submit(exporter, uids)
    known = exporter.requests.known
    wait_until(lambda: not exporter.requests.pending(1) and not exporter.requests.live_batches(), "the backlog")
    finished = [request for chunk in range(0, len(ids), 500) for request in known(ids[chunk : chunk + 500]).values()]
    if failed := [request for request in finished if request.status != "completed"]:
        raise SystemExit(f"{len(failed)} requests are not completed, the first: {failed[0].error_code}")
    if wrong := [request for request in finished if request.documents_done != finished[0].documents_done]:
        raise SystemExit(f"{len(wrong)} requests hold another number of documents than the first")
    last = max(request.finished_at.timestamp() for request in finished if request.finished_at)
    batches = {str(request.batch_id) for request in finished}
    runs = [
        record
        for record in instance.get_run_records()
        if record.dagster_run.tags.get(BATCH_TAG) in batches and record.start_time
    ]
    created = min(record.create_timestamp.timestamp() for record in runs)
    began = max(record.start_time or 0.0 for record in runs)
    for request in finished:
        exporter.expire(request)
    return {
        "seconds": last - inserted,
        "to_run": created - inserted,
        "to_work": began - created,
        "at_work": last - began,
    }


def library(settings: Settings, uids: Sequence[str]) -> float:
    """Take a request for each user through the library without Dagster, a process for each batch; return seconds."""
    with Exporter(settings) as exporter:
        ids = submit(exporter, uids)
    command = [sys.executable, "-m", "export_pipeline_tests.bench", "backlog", "--child"]
    size = settings.batch_size
    children = [
        subprocess.Popen([*command, *ids[start : start + size]], env=environment(settings), stdout=subprocess.PIPE)
        for start in range(0, len(ids), size)
    ]
    answers = [json.loads(child.communicate()[0]) for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("the library alone did not finish")
    return float(max(answers))


def serve(ids: Sequence[str]) -> float:
    """Be one run's process without Dagster; return its seconds, without its start-up."""
    with Exporter(Settings.load()) as exporter:
        batch = Batch(new_id(), tuple(ids))
        exporter.requests.claim(batch)
        begun = time.perf_counter()
        plan = exporter.plan(batch.id)
        for entry in exporter.catalog.entries:
            exporter.read_slice(exporter.load_plan(batch.id), entry.name)
        completed = sum(outcome.manifest is not None for outcome in exporter.package(plan))
        exporter.discard_slices(batch.id)
        seconds = time.perf_counter() - begun
        if completed != len(ids):
            raise SystemExit(f"{len(ids) - completed} requests failed")
    return seconds
