"""The HTTP API as ``export-pipeline serve`` runs it: polls of live exports, downloads, and its memory meanwhile.

A single download is measured beside ``cat`` of the same file, to /dev/null and into a connection. Then many downloads
at once, half of them read slowly at first, for the server's memory over idle. Polls come as often as the API tells
callers to, and as fast as they are answered, beside a call that does nothing. The clients are processes of their own.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import truediv
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from export_pipeline.installation import Installation
from export_pipeline.settings import Settings
from export_pipeline_tests.bench.http_clients import Caller, cat, cat_into_socket, download, download_together, poll
from export_pipeline_tests.bench.http_server import Watched, free_port, live_exports, package, serving
from export_pipeline_tests.bench.measure import MB, report

MEMORY_LIMIT_MB = 64.0
PROCESSES = 2
"""Of the clients; more would only take the processor away from the server."""

CAT = "cat FILE > /dev/null"
CONNECTION = "cat FILE into a connection"
DOWNLOAD = "a download"
RANGE = "a download of the second half"


@dataclass(frozen=True, slots=True)
class Polls:
    """What came of polling: polls a second, how long an answer took, and the processor's time for each."""

    a_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Bench:
    """The server, and the processes that its clients work in."""

    server: psutil.Process
    clients: ProcessPoolExecutor

    def polls(self, callers: Sequence[Caller], seconds: float, every: float = 0.0) -> Polls:
        """Poll for so long, each caller once in ``every`` seconds; with 0, as fast as it is answered."""
        shares = [callers[number::PROCESSES] for number in range(PROCESSES)]
        with Watched(self.server) as watched:
            asking = [self.clients.submit(poll, share, seconds, every) for share in shares if share]
            taken = [answer for share in asking for answer in share.result()]
        percentiles = quantiles(taken, n=100)
        return Polls(
            len(taken) / watched.seconds,
            1000 * percentiles[49],
            1000 * percentiles[98],
            1000 * watched.cpu_seconds / len(taken),
        )

    def downloads(self, downloader: Caller, size: int, slow_seconds: Sequence[float]) -> Watched:
        """Download the file at once for each of ``slow_seconds``, for so long slowly."""
        shares = [slow_seconds[number::PROCESSES] for number in range(PROCESSES)]
        with Watched(self.server) as watched:
            fetching = [self.clients.submit(download_together, downloader, size, share) for share in shares if share]
            for share in fetching:
                share.result()
        return watched


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("bench http", description=__doc__)
    parser.add_argument("--live", type=int, default=1000, help="exports that are pending or running")
    parser.add_argument("--callers", type=int, default=16, help="programs that poll, each for an app of its own")
    parser.add_argument("--seconds", type=float, default=10, help="of each way to poll, and of the slow reading")
    parser.add_argument("--size", type=int, default=1000, help="of the package, in MB")
    parser.add_argument("--rounds", type=int, default=3, help="of single downloads, of which the median counts")
    parser.add_argument("--downloads", type=int, default=50, help="at once")
    parser.add_argument("--folder", help="where the package goes meanwhile")
    options = parser.parse_args(arguments)
    size = options.size * MB
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        port = free_port()
        with Installation(Settings(home=home)) as installation:
            pollers = live_exports(installation, port, options.live, options.callers)
            downloader, file = package(installation, port, size)
            poll_after = installation.settings.poll_after.total_seconds()
        server = stack.enter_context(serving(home, port))
        clients = stack.enter_context(ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")))
        list(clients.map(time.sleep, [1.0] * PROCESSES))  # so that all have started
        bench = Bench(server, clients)
        bench.polls(pollers, 1.0)  # what the first calls import and connect belongs to an idle server
        idle = server.memory_info().rss
        singles = single_downloads(downloader, file, size, options.rounds)
        slow = [options.seconds * (number % 2) for number in range(options.downloads)]
        many = bench.downloads(downloader, size, slow)
        told = bench.polls(pollers, options.seconds, every=poll_after * options.callers / options.live)
        fast = bench.polls(pollers, options.seconds)
        probed = bench.polls([replace(caller, paths=("/healthz",)) for caller in pollers], options.seconds)
    # Each round beside its own cat: the machine may be another's for a while.
    of_cat = {way: median(map(truediv, speeds, singles[CAT])) for way, speeds in singles.items()}
    over_idle = (many.peak_bytes - idle) / MB
    needed = options.live / poll_after
    rows = [
        *(row(way, mb_s=median(speeds) / MB, of_cat=of_cat[way]) for way, speeds in singles.items()),
        row(
            f"{options.downloads} downloads at once", mb_s=options.downloads * options.size / many.seconds, mb=over_idle
        ),
        row(f"polls of {options.live} exports, each every {poll_after:g} s", told),
        row("polls, as fast as they are answered", fast),
        row("/healthz, which does nothing", probed),
    ]
    figures = {
        "size_mb": options.size,
        "mb_s": {way: round(median(speeds) / MB, 1) for way, speeds in singles.items()},
        "download_of_cat": round(of_cat[DOWNLOAD], 3),
        "download_of_connection": round(median(map(truediv, singles[DOWNLOAD], singles[CONNECTION])), 3),
        "range_of_connection": round(median(map(truediv, singles[RANGE], singles[CONNECTION])), 3),
        "downloads": options.downloads,
        "downloads_mb_s": round(options.downloads * options.size / many.seconds, 1),
        "downloads_mb_over_idle": round(over_idle, 1),
        "live": options.live,
        "polls_s": round(fast.a_second, 1),
        "polls_of_healthz": round(fast.a_second / probed.a_second, 3),
        "polls_p50_ms": round(fast.p50_ms, 2),
        "polls_p99_ms": round(fast.p99_ms, 2),
        "polls_cpu_ms": round(fast.cpu_ms, 3),
        "paced_polls_s": round(told.a_second, 1),
        "paced_p50_ms": round(told.p50_ms, 2),
        "paced_p99_ms": round(told.p99_ms, 2),
    }
    memory = "within" if over_idle <= MEMORY_LIMIT_MB else "OVER"
    speed = "enough" if fast.a_second >= needed else "TOO FEW"
    verdicts = [
        f"{options.downloads} downloads at once: {over_idle:.1f} MB over idle, {memory} the limit of {MEMORY_LIMIT_MB}",
        f"{fast.a_second:,.0f} polls a second: {speed} for {options.live:,} live exports, which make {needed:,.0f}",
    ]
    report("http", rows, figures, verdicts)


def single_downloads(downloader: Caller, file: Path, size: int, rounds: int) -> Mapping[str, Sequence[float]]:
    """Return, by way to read the file, how many bytes a second each round made."""
    half = size // 2
    ways: Mapping[str, tuple[int, Callable[[], float]]] = {
        CAT: (size, lambda: cat(file)),
        CONNECTION: (size, lambda: cat_into_socket(file)),
        DOWNLOAD: (size, lambda: download(downloader, size)),
        RANGE: (size - half, lambda: download(downloader, size, begin=half)),
    }
    cat(file)  # from here on it is in memory
    found = [{way: read / run() for way, (read, run) in ways.items()} for _ in range(rounds)]
    return {way: [each[way] for each in found] for way in ways}


def row(
    what: str,
    polls: Polls | None = None,
    mb_s: float | None = None,
    of_cat: float | None = None,
    mb: float | None = None,
) -> Mapping[str, Any]:
    """Return a row of the table; what was not measured stays empty."""
    values = {
        "MB/s": mb_s,
        "of cat": of_cat,
        "MB over idle": mb,
        "calls/s": polls and polls.a_second,
        "p50 ms": polls and polls.p50_ms,
        "p99 ms": polls and polls.p99_ms,
        "server's CPU ms": polls and polls.cpu_ms,
    }
    return {"what": what, **{name: "" if value is None else value for name, value in values.items()}}
