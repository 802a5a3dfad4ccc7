"""The soak: requests that arrive at random while faults strike at random, and what is left of it all in the end.

The daemon and the code server are killed in the first third only: after that, their memory is to stay where it is.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from rich.console import Console

from export_pipeline.errors import ExportPipelineError
from export_pipeline.exporter import Exporter
from export_pipeline.requests.models import FINISHED, Request
from export_pipeline_tests.faults import exports, remains
from export_pipeline_tests.faults.house import House, running_house
from export_pipeline_tests.faults.victims import VICTIMS

MB = 1_000_000
DOCUMENTS_EACH = 5
WARM_UP = 30
MEND_SECONDS = 3.0
SAMPLE_SECONDS = 5.0
DRAIN_SECONDS = 900.0
CALM_SECONDS = 20.0
CANCELLED_SHARE = 0.02
MORE_MEMORY = 1.25
MORE_MEMORY_BYTES = 30 * MB
MORE_FILES = 10
ROW_BYTES = 8_000
"""What the history of a request may take on disk for good: its row, its events, and their indexes."""
HOME_BYTES = 20 * MB
"""By which DAGSTER_HOME may be larger besides: SQLite keeps the pages and the log that its busiest moment took."""

NEVER = timedelta(days=1000)

DAGSTER_DIES = ("code server", "code server and its runs", "daemon", "all of Dagster")
OTHERS = ("run process", "MongoDB", "network to MongoDB")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon and the code server hold: bytes of memory, and open files."""

    memory: int
    files: int


@dataclass
class Course:
    """What happened."""

    requests: list[Request] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)


def soak(console: Console, minutes: float, requests: int, fault_every: float, seed: int) -> int:
    """Run the soak; print what it came to; return the exit code."""
    console.print(f"{requests} requests in {minutes} minutes, a fault about every {fault_every:.0f} s, seed {seed}")
    rng = random.Random(seed)
    with running_house("sqlite", "directory", users=requests + WARM_UP, documents_each=DOCUMENTS_EACH) as house:
        warm = house.submit(WARM_UP)
        house.wait_until_over(warm, DRAIN_SECONDS)
        time.sleep(CALM_SECONDS)
        begun_with, home_before = sample(house), bytes_of(house.folder / "home")
        course = _storm(house, rng, minutes * 60, requests, fault_every)
        console.print(f"all have arrived; {sum(course.faults.values())} faults: {dict(course.faults)}")
        drained = _wait_for_all(house, course)
        time.sleep(CALM_SECONDS)
        ended_with = sample(house)
        home_full = bytes_of(house.folder / "home")
        figures = _figures(house, course, [*warm, *course.requests])
        home_after = bytes_of(house.folder / "home")
    figures |= {
        "drain_seconds": round(drained, 1),
        "memory_mb": [round(one.memory / MB) for one in (begun_with, _peak(course), ended_with)],
        "open_files": [one.files for one in (begun_with, _peak(course), ended_with)],
        "home_mb": [round(size / MB) for size in (home_before, home_full, home_after)],
    }
    well = (
        figures["ended"] == figures["requests"]
        and not any(figures[name] for name in ("failed", "lost", "doubled", "leftovers", "unfinished_runs"))
        and ended_with.memory <= begun_with.memory * MORE_MEMORY + MORE_MEMORY_BYTES
        and ended_with.files <= begun_with.files + MORE_FILES
        and home_after <= home_before + HOME_BYTES + requests * ROW_BYTES
    )
    print(json.dumps({"soak": "well" if well else "NOT WELL", **figures}))
    return 0 if well else 1


def sample(house: House) -> Sample:
    """Measure the daemon and the code server."""
    processes = [psutil.Process(server.pid) for server in (house.daemon, house.code_server)]
    return Sample(sum(one.memory_info().rss for one in processes), sum(one.num_fds() for one in processes))


def _peak(course: Course) -> Sample:
    return Sample(max(one.memory for one in course.samples), max(one.files for one in course.samples))


def _storm(house: House, rng: random.Random, seconds: float, requests: int, fault_every: float) -> Course:
    course = Course()
    begun = time.monotonic()
    due: list[tuple[float, Callable[[], None]]] = []
    arrivals = sorted(begun + rng.uniform(0, seconds) for _ in range(requests))
    next_fault, next_sample = begun + rng.expovariate(1 / fault_every), begun
    while arrivals or due:
        now = time.monotonic()
        arrived = [at for at in arrivals if at <= now]
        if arrived:
            arrivals = arrivals[len(arrived) :]
            course.requests += house.submit(len(arrived))
            if rng.random() < CANCELLED_SHARE * len(arrived):
                _cancel(house, rng.choice(course.requests[-200:]), course)
        for at, mend in [one for one in due if one[0] <= now]:
            mend()
            due.remove((at, mend))
        if now >= next_fault and arrivals:
            choice = rng.choice((*OTHERS, *(DAGSTER_DIES if now - begun < seconds / 3 else ())))
            mend_ = _strike(house, rng, choice)
            if mend_ is not None:
                course.faults[choice] += 1
                due.append((now + MEND_SECONDS, mend_))
            next_fault = now + rng.expovariate(1 / fault_every)
        if now >= next_sample:
            with suppress(psutil.NoSuchProcess):
                course.samples.append(sample(house))
            next_sample = now + SAMPLE_SECONDS
        time.sleep(0.02)
    return course


def _strike(house: House, rng: random.Random, victim: str) -> Callable[[], None] | None:
    processes = house.run_processes()
    if victim == "run process" and not processes:
        return None
    with suppress(ProcessLookupError):  # it has just ended
        return VICTIMS[victim](house, rng.choice(processes) if processes else 0)
    return None


def _cancel(house: House, request: Request, course: Course) -> None:
    with suppress(ExportPipelineError):  # it has finished
        house.exporter.cancel(request.id, "soak")
        course.cancelled.add(request.id)


def _wait_for_all(house: House, course: Course) -> float:
    begun = time.monotonic()
    waiting = course.requests
    while waiting and time.monotonic() - begun < DRAIN_SECONDS:
        with suppress(ExportPipelineError):
            live = {request.id for request in house.exporter.requests.due_before(datetime.now(UTC) + NEVER)}
            waiting = [request for request in waiting if request.id in live]
        time.sleep(0.5)
    return time.monotonic() - begun


def _figures(house: House, course: Course, requests: Sequence[Request]) -> dict[str, object]:
    ids = [request.id for request in requests]
    if len(set(ids)) < len(ids):
        raise RuntimeError("requests have joined each other: a soak needs a user for each")
    rows = [row for some in _some(ids) for row in house.exporter.requests.known(some).values()]
    completed = [row for row in rows if row.status == "completed"]
    wrong = [row.id for row in completed if exports.what_is_wrong(house, row)]
    doubled = [row.id for row in rows if remains.completions(house, row) > (row.status == "completed")]
    expected = {path for row in completed for path in exports.files_of(house, row)}
    runs = house.unfinished_runs()
    remains.sweep(house)
    left = [*(set(remains.stored_files(house)) - expected), *remains.secrets(house)]
    left += remains.partitions(house, completed)
    for row in completed:
        house.exporter.expire(row)
    with Exporter(house.settings.model_copy(update={"run_retention": timedelta(microseconds=1)})) as forgetful:
        remains.sweep(house, forgetful)
    left += [*remains.stored_files(house), *remains.partitions(house, [])]
    for what in left[:20]:
        print("left:", what)
    return {
        "requests": len(ids),
        "ended": sum(row.status in FINISHED for row in rows),
        **{status: sum(row.status == status for row in rows) for status in ("completed", "cancelled", "failed")},
        "failures": dict(Counter(str(row.error_code) for row in rows if row.status == "failed")),
        "most_attempts": max(row.attempt for row in rows),
        "lost": len(wrong) + len(ids) - len(rows),
        "doubled": len(doubled),
        "leftovers": len(left),
        "unfinished_runs": len(runs),
        "faults": sum(course.faults.values()),
        "storage_files": len(remains.stored_files(house)),
    }


def _some(ids: Sequence[str]) -> Iterator[list[str]]:
    return (list(ids[start : start + 500]) for start in range(0, len(ids), 500))


def bytes_of(folder: os.PathLike[str]) -> int:
    """Return the size of all files in a folder."""
    sizes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                sizes += Path(parent, name).lstat().st_size
    return sizes
