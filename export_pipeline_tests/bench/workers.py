"""The backlog on Celery workers, on one and then on two: PostgreSQL, S3, Redis, and Dagster's daemon.

All of it shares one machine here: MongoDB, PostgreSQL, the S3 server and the daemon run on the workers' cores. The CPU
time of each is told, since where it comes to what the cores have, a second worker has nothing to work with.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from pymongo import MongoClient

from export_pipeline.exporter import Exporter
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.requests.models import NewRequest
from export_pipeline_tests.bench import crowd
from export_pipeline_tests.bench.backlog import submit
from export_pipeline_tests.bench.daemon import export_one
from export_pipeline_tests.bench.measure import report
from export_pipeline_tests.deployment.cluster import Cluster, running_cluster, wait_until

WORKERS = ("one", "two")
PATIENCE_SECONDS = 1200.0
NEARLY_ALL = 0.85
"""Of the cores' time: a machine that is busier has little left for another worker."""

MARKS = {
    "mongod": "MongoDB",
    "postgres": "PostgreSQL",
    "rclone": "S3 server",
    "redis-server": "Redis",
    "celery": "workers",
    "dagster": "Dagster's daemon",
}
"""What the command lines of our processes hold."""

KINDS = (*MARKS.values(), "other")


@dataclass(frozen=True, slots=True)
class Drained:
    """How one backlog went."""

    seconds: float
    runs: tuple[int, ...]
    """By worker."""
    cpu: Mapping[str, float]
    """Seconds of CPU time, by the kind of process."""
    busy: float
    """How much of all cores' time was used, by whatever program: from 0 to 1."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench workers", description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--batch", type=int, default=50, help="the most requests of one run")
    parser.add_argument("--collections", type=int, default=20)
    parser.add_argument("--documents", type=int, default=40_000, help="in each collection")
    parser.add_argument("--each", type=int, default=20, help="documents of one user in each collection")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        uri = stack.enter_context(embedded_mongo())
        client = stack.enter_context(MongoClient[Any](uri))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        crowd.load(client, options.collections, options.documents, options.each)
        catalog = folder / "catalog.yaml"
        crowd.write_catalog(catalog, options.collections)
        uids = [crowd.uid(number) for number in range(options.requests)]
        cluster = stack.enter_context(
            running_cluster(
                folder, mongo_uri=uri, mongo_database=crowd.DATABASE, catalog=catalog, batch_size=options.batch
            )
        )
        exporter = stack.enter_context(Exporter(cluster.settings))
        cluster.start_daemon()
        alone, both = [], []
        for _ in range(options.rounds):
            alone.append(drained_by(cluster, exporter, uids, WORKERS[:1]))
            both.append(drained_by(cluster, exporter, uids, WORKERS))
    report_workers(options.requests, options.batch, alone, both)


def drained_by(cluster: Cluster, exporter: Exporter, uids: Sequence[str], workers: Sequence[str]) -> Drained:
    """Start these workers, warm, let them take the backlog, and stop them."""
    for name in workers:
        cluster.start_worker(name)
    for _ in range(2 * len(workers)):  # the first run of each worker, and the daemon's start, count for nobody
        export_one(exporter, NewRequest(crowd.APP, list(uids[:1])))
    runs_before = [cluster.runs_of(name) for name in workers]
    cpu_before, busy_before = cpu_by_kind(), machine_cpu()
    seconds = drain(exporter, uids)
    cpu, busy = cpu_by_kind() - cpu_before, machine_cpu() - busy_before
    time.sleep(1)  # the last run tells its own end after its last request's
    runs = tuple(cluster.runs_of(name) - before for name, before in zip(workers, runs_before, strict=True))
    for name in workers:
        cluster.stop(name)
    return Drained(seconds, runs, cpu, busy["used"] / busy.total())


def drain(exporter: Exporter, uids: Sequence[str]) -> float:
    """Insert a request for each user and wait for all; return the seconds to the last that is completed."""
    inserted = time.time()
    ids = submit(exporter, uids)

    def ended() -> bool:
        time.sleep(0.2)  # the database has other work
        return not exporter.requests.running() and not exporter.requests.pending(1)

    wait_until(ended, PATIENCE_SECONDS, "the backlog")
    finished = [exporter.requests.get(request_id) for request_id in ids]
    if failed := [request for request in finished if request.status != "completed"]:
        raise SystemExit(f"{len(failed)} requests are not completed, the first: {failed[0].error_code}")
    return max(request.finished_at.timestamp() for request in finished if request.finished_at) - inserted


def cpu_by_kind() -> Counter[str]:
    """Return the CPU seconds of this process's descendants, ended ones included, by what they are."""
    found: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        try:
            times, command = process.cpu_times(), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        found[kind(command)] += times.user + times.system + times.children_user + times.children_system
    return found


def machine_cpu() -> Counter[str]:
    """Return the seconds that all cores have been used and idle, for whomever."""
    times = psutil.cpu_times()
    idle = times.idle + times.iowait
    return Counter(used=sum(times) - idle - times.guest - times.guest_nice, idle=idle)


def kind(command: str) -> str:
    """Return what a process is, from its command line."""
    return next((name for mark, name in MARKS.items() if mark in command), "other")


def report_workers(requests: int, batch: int, alone: Sequence[Drained], both: Sequence[Drained]) -> None:
    """Print what the rounds come to, the median of each, and what limits the second worker."""
    one, two = (median(drained.seconds for drained in rounds) for rounds in (alone, both))
    ratio = median(second.seconds / first.seconds for first, second in zip(alone, both, strict=True))
    busy_one, busy_two = (median(drained.busy for drained in rounds) for rounds in (alone, both))
    ours_one, ours_two = (median(share_of_cores(drained) for drained in rounds) for rounds in (alone, both))
    rows: list[dict[str, Any]] = [
        row("the backlog, seconds", one, two),
        row("requests a second", requests / one, requests / two),
        row("runs, by worker (last round)", alone[-1].runs, both[-1].runs),
        *(row(f"CPU seconds: {name}", cpu(alone, name), cpu(both, name)) for name in KINDS),
        row("cores busy with this, of 1", ours_one, ours_two),
        row("cores busy with anything, of 1", busy_one, busy_two),
    ]
    figures = {
        "requests": requests,
        "batch": batch,
        "one_worker_seconds": round(one, 3),
        "two_workers_seconds": round(two, 3),
        "ratio": round(ratio, 3),
        "cores_busy_one": round(busy_one, 3),
        "cores_busy_two": round(busy_two, 3),
        "cores_ours_one": round(ours_one, 3),
        "cores_ours_two": round(ours_two, 3),
    }
    limit = (
        "the cores are what limits a second worker"
        if busy_one > NEARLY_ALL
        else "what limits a second worker is not the cores, but what runs wait for"
    )
    verdict = (
        f"two workers take {ratio:.2f} of the time of one; with one, the {os.cpu_count()} cores are "
        f"{busy_one:.0%} busy, {ours_one:.0%} with this benchmark's servers and workers: {limit}"
    )
    report("workers", rows, figures, [verdict])


def row(what: str, one: Any, two: Any) -> dict[str, Any]:
    return {"what": what, "one worker": one, "two workers": two}


def cpu(rounds: Sequence[Drained], name: str) -> float:
    return median(drained.cpu.get(name, 0.0) for drained in rounds)


def share_of_cores(drained: Drained) -> float:
    return sum(drained.cpu.values()) / drained.seconds / (os.cpu_count() or 1)
