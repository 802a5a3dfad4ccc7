"""What the matrix puts into the processes under test: stops at stages, shorter waits, and a clock that can jump.

Python imports it at start wherever this folder is on PYTHONPATH. It changes modules of the library as they are
imported, and fails loudly where one no longer has what is changed here. FAULTS_FOLDER names the folder through which
the harness and the processes talk (see ``stages.py``). Standard library only.
"""

import datetime
import functools
import importlib.abc
import importlib.machinery
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

FOLDER = Path(os.environ["FAULTS_FOLDER"])
MOST_STOPPED_SECONDS = 60.0
TRUE_TIME = time.time
HALF = os.environ.get("FAULTS_HALF", "")
"""The slice before which half of them are done."""
WRITTEN_AT_A_TIME = 1 << 20
"""Bytes that a part may have before any of them are on a disk."""


def stage(name: str) -> None:
    """Stop here, once, if the harness waits for this stage, until it lets go."""
    armed, mine = FOLDER / "armed", FOLDER / f"taken.{os.getpid()}"
    with suppress(FileNotFoundError):
        if armed.read_text() != name:
            return
        armed.rename(mine)  # only one process can
        mine.write_text(str(os.getpid()))
        mine.rename(FOLDER / "reached")
        deadline = time.monotonic() + MOST_STOPPED_SECONDS
        while not (FOLDER / "released").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


def before(owner: Any, name: str, at: str) -> None:
    """Stop at a stage before a function is called."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def stopping(*arguments: Any, **named: Any) -> Any:
        stage(at)
        return function(*arguments, **named)

    setattr(owner, name, stopping)


def after(owner: Any, name: str, at: str) -> None:
    """Stop at a stage after a function was called, if it has done something."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def stopping(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        if result is None or result:
            stage(at)
        return result

    setattr(owner, name, stopping)


def in_working(module: Any) -> None:
    after(module.BatchWork, "claim", "claimed")


def in_exporter(module: Any) -> None:
    before(module.Exporter, "plan", "planning")
    read_slice, whole = module.read_slice, module.Exporter.read_slice

    def reading(*arguments: Any) -> Any:
        *others, on_read = arguments

        def seen(documents: int) -> None:
            on_read(documents)
            if documents:
                stage("reading")

        return read_slice(*others, seen)

    @functools.wraps(whole)
    def halfway(self: Any, plan: Any, name: str, *others: Any) -> Any:
        if name == HALF:
            stage("slices half")
        return whole(self, plan, name, *others)

    module.read_slice, module.Exporter.read_slice = reading, halfway


def in_parts(module: Any) -> None:
    after(module.PackageFiles, "write_collection", "assembling")
    before(module._Part, "verify", "verifying")
    after(module.PackageFiles, "commit", "publishing")


def in_batched(module: Any) -> None:
    before(module.BatchedWork, "complete", "recording")
    after(module.BatchedWork, "complete", "recorded")


def in_backup(module: Any) -> None:
    before(module.Backups, "plan", "planning")
    after(module.Backups, "plan", "planned")
    before(module.Backups, "complete", "recording")
    after(module.Backups, "complete", "recorded")


def in_write(module: Any) -> None:
    write_part, add = module.write_part, module._File.add

    @functools.wraps(write_part)
    def halfway(client: Any, settings: Any, storage: Any, folder: str, plan: Any, part: Any, *others: Any) -> Any:
        if part.number == len(plan.parts) // 2:
            stage("parts half")
        return write_part(client, settings, storage, folder, plan, part, *others)

    @functools.wraps(add)
    def adding(self: Any, piece: Any, limit: int) -> Any:
        count = add(self, piece, limit)
        if self._bytes > WRITTEN_AT_A_TIME:
            stage("in a part")
        return count

    module.write_part, module._File.add = halfway, adding


def in_seal(module: Any) -> None:
    store = module._store

    @functools.wraps(store)
    def storing(storage: Any, key: str, data: bytes) -> None:
        is_seal = key.endswith(f"/{module.MANIFEST}")
        if is_seal:
            stage("sealing")
        store(storage, key, data)
        if is_seal:
            stage("sealed")

    module._store = storing


def in_source(module: Any) -> None:
    before(module.BackupSource, "check", "checking")


def in_restore(module: Any) -> None:
    load_part, begun = module.load_part, itertools.count()

    @functools.wraps(load_part)
    def halfway(source: Any, *others: Any, **named: Any) -> Any:
        if next(begun) == sum(len(each.parts) for each in source.manifest.collections) // 2:
            stage("loading half")
        return load_part(source, *others, **named)

    module.load_part = halfway
    before(module, "compare", "comparing")
    after(module.Restore, "run", "recording")


def in_load(module: Any) -> None:
    insert = module._insert

    @functools.wraps(insert)
    def in_two(loading: Any, piece: Any, **named: Any) -> None:
        half = len(piece) // 2
        if len(piece.data) > WRITTEN_AT_A_TIME:
            insert(loading, piece.cut(0, half), **named)
            stage("in a part")
            insert(loading, piece.cut(half, len(piece)), **named)
        else:
            insert(loading, piece, **named)

    module._insert = in_two


def in_target(module: Any) -> None:
    before(module.RestoreTarget, "build_indexes", "building indexes")
    before(module.RestoreTarget, "finish", "finishing")
    before(module.RestoreRecord, "remove", "recorded")


def shorter_leases(module: Any) -> None:
    module.SILENCE, module.MOST_BETWEEN_LOOKS, module.LEASE = 10.0, 5.0, datetime.timedelta(seconds=10)
    (beat,) = module.Lease.__init__.__defaults__
    assert beat == module.BEAT
    module.Lease.__init__.__defaults__ = (1.0,)


def shorter_delays(module: Any) -> None:
    assert module.FIRST_DELAY < module.LONGEST_DELAY
    module.FIRST_DELAY, module.LONGEST_DELAY, module.GROWTH = (
        datetime.timedelta(seconds=2),
        datetime.timedelta(seconds=20),
        2.0,
    )


def looking_more_often(module: Any) -> None:
    assert module.request_reconciler._min_interval == 30
    module.request_reconciler._min_interval = 2


def smaller_parts(module: Any) -> None:
    """Let packages of the matrix's size be multipart uploads."""
    part, *others = module.Limits.__init__.__defaults__
    assert part > 1 << 20
    module.Limits.__init__.__defaults__ = (256 << 10, *others)


def with_the_true_clock(module: Any) -> None:
    """gRPC compares deadlines from Python's clock with C's: where only one of them jumps, no call is ever in time."""
    assert module.time.time
    module.time = SimpleNamespace(**vars(time) | {"time": TRUE_TIME})


CHANGES: dict[str, list[Callable[[ModuleType], None]]] = {
    "export_pipeline.requests.working": [in_working],
    "export_pipeline.requests.batched": [in_batched],
    "export_pipeline.exporter": [in_exporter],
    "export_pipeline.packages.parts": [in_parts],
    "export_pipeline.backups.backup": [in_backup],
    "export_pipeline.backups.write": [in_write],
    "export_pipeline.backups.seal": [in_seal],
    "export_pipeline.backups.restore": [in_restore],
    "export_pipeline.backups.restore_load": [in_load],
    "export_pipeline.backups.restore_source": [in_source],
    "export_pipeline.backups.restore_target": [in_target],
    "export_pipeline.storage.s3_upload": [smaller_parts],
}
SHORTER: dict[str, list[Callable[[ModuleType], None]]] = {
    "export_pipeline.requests.leases": [shorter_leases],
    "export_pipeline.requests.retries": [shorter_delays],
    "export_pipeline.orchestration.reconciling": [looking_more_often],
}
if not os.environ.get("FAULTS_REAL_WAITS"):
    CHANGES |= SHORTER
if os.environ.get("FAULTS_CLOCK"):
    CHANGES |= {f"grpc.{name}": [with_the_true_clock] for name in ("_channel", "_common", "_server", "_utilities")}


class Changing(importlib.abc.MetaPathFinder):
    """Finds the modules that are changed, as Python does, and changes them once they are there."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        changes = CHANGES.get(name, [])
        spec = importlib.machinery.PathFinder.find_spec(name, path) if changes else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def changed(module: Any) -> None:
            execute(module)
            for change in changes:
                change(module)

        spec.loader.exec_module = changed  # type: ignore[method-assign]
        return spec


class JumpingClock:
    """Seconds by which the clock is wrong: of this process alone, or of all."""

    def __init__(self) -> None:
        self._files = (FOLDER / f"clock.{os.getpid()}", FOLDER / "clock")
        self._looked = float("-inf")
        self._wrong_by = 0.0

    def wrong_by(self) -> float:
        if time.monotonic() - self._looked > 0.05:
            self._looked = time.monotonic()
            self._wrong_by = next(self._said(), 0.0)
        return self._wrong_by

    def _said(self) -> Iterator[float]:
        for file in self._files:
            with suppress(FileNotFoundError, ValueError):
                yield float(file.read_text())


def let_the_clock_jump() -> None:
    """Replace what tells the time in Python; what is written in Rust or C goes on as before."""
    clock, true_datetime = JumpingClock(), datetime.datetime

    class AnyDatetime(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, true_datetime)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, true_datetime)

    class Jumping(true_datetime, metaclass=AnyDatetime):  # type: ignore[valid-type,misc]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return true_datetime.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return true_datetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    Jumping.__name__ = Jumping.__qualname__ = "datetime"
    Jumping.__module__ = "datetime"
    time.time = lambda: TRUE_TIME() + clock.wrong_by()
    datetime.datetime = Jumping  # type: ignore[misc]


if os.environ.get("FAULTS_CLOCK"):
    let_the_clock_jump()
sys.meta_path.insert(0, Changing())
