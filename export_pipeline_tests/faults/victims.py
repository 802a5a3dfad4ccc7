"""What can befall an installation: each strike hits at once and returns how the world mends it, seconds later.

Killed servers and processes need no mending here: their supervisors start them again.
"""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress

import psutil

from export_pipeline_tests.faults import disks
from export_pipeline_tests.faults.house import House

Mend = Callable[[], None]
Strike = Callable[[House, int], Mend]
"""Takes the process that has stopped at the stage."""

NO_BYTES = 0
ENDLESS = 1 << 60
LEAST_READ = 100_000
"""Bytes that pass before the network is cut: the middle of what is read of a collection."""


def _nothing() -> None:
    """Someone else mends it."""


def no_fault(house: House, process: int) -> Mend:
    """Nothing happens: how long it takes without a fault."""
    return _nothing


def run_process(house: House, process: int) -> Mend:
    os.kill(process, signal.SIGKILL)
    return _nothing


def code_server(house: House, process: int) -> Mend:
    """The code server alone: its runs live on."""
    house.code_server.kill()
    return _nothing


def code_server_and_runs(house: House, process: int) -> Mend:
    """The code server with all that it has started, as where its container ends."""
    for member in house.code_server.group():
        with suppress(psutil.NoSuchProcess):
            member.kill()
    return _nothing


def daemon(house: House, process: int) -> Mend:
    house.daemon.kill()
    return _nothing


def whole_machine(house: House, process: int) -> Mend:
    """All of Dagster at once."""
    for member in (*house.daemon.group(), *house.code_server.group()):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    return _nothing


def server(name: str) -> Strike:
    """Kill a server."""

    def strike(house: House, process: int) -> Mend:
        house.servers[name].kill()
        return _nothing

    return strike


def cut_network(name: str, after: int = LEAST_READ, *, silent: bool = False) -> Strike:
    """Cut the way to a server after some more bytes of its answers; ``silent``, as a network that loses its way."""

    def strike(house: House, process: int) -> Mend:
        proxy = house.proxies[name]
        proxy.cut_after(after, answers=True, silent=silent)
        return lambda: proxy.cut_after(ENDLESS)

    return strike


def full_storage(house: House, process: int) -> Mend:
    """No space where slices and packages go."""
    folder = house.folder / "exports"
    disks.fill(folder)
    return lambda: disks.make_room(folder)


def full_storage_for_good(house: House, process: int) -> Mend:
    """The same, and others take what a failed attempt frees: with that much room, a retry might succeed."""
    return disks.keep_full(house.folder / "exports")


def full_home(house: House, process: int) -> Mend:
    """No space for Dagster's databases and the requests table."""
    folder = house.folder / "home"
    disks.fill(folder)
    return lambda: disks.make_room(folder)


def jump(seconds: float) -> Strike:
    """Let all clocks jump, and stay there."""

    def strike(house: House, process: int) -> Mend:
        house.clock += seconds
        house.stop.set_clock(house.clock)
        return _nothing

    return strike


def jump_of_one(seconds: float) -> Strike:
    """Let the clock of the stopped process jump: two machines do not agree on the time."""

    def strike(house: House, process: int) -> Mend:
        house.stop.set_clock(house.clock + seconds, process)
        return _nothing

    return strike


def second_daemon(house: House, process: int) -> Mend:
    """Another daemon starts on the same DAGSTER_HOME, and stays until all requests have ended."""
    return house.start_second_daemon().stop


VICTIMS: Mapping[str, Strike] = {
    "nothing": no_fault,
    "run process": run_process,
    "code server": code_server,
    "code server and its runs": code_server_and_runs,
    "daemon": daemon,
    "all of Dagster": whole_machine,
    "MongoDB": server("mongodb"),
    "S3 server": server("s3"),
    "PostgreSQL": server("postgresql"),
    "network to MongoDB": cut_network("mongodb"),
    "network to S3": cut_network("s3", NO_BYTES),
    "network to S3, silently": cut_network("s3", NO_BYTES, silent=True),
    "network to PostgreSQL": cut_network("postgresql", NO_BYTES),
    "disk of the exports full": full_storage,
    "disk of the exports full for good": full_storage_for_good,
    "disk of DAGSTER_HOME full": full_home,
    "clocks 2 h ahead": jump(7200),
    "clocks 20 s back": jump(-20),
    "run's clock 2 h ahead": jump_of_one(7200),
    "run's clock 2 h back": jump_of_one(-7200),
    "two daemons": second_daemon,
}

ON_SMALL_DISKS = frozenset(victim for victim in VICTIMS if victim.startswith("disk of "))
"""What needs an installation on disks that can be filled."""

MENDED_AT_THE_END = frozenset({"disk of the exports full for good", "two daemons"})
"""What lasts until all requests have ended."""
