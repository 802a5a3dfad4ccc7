"""The history of accesses: who tried what in which app, and how it ended. It only grows, and names no person.

Many threads hand over what happened; one writes it, in as few transactions as it can, so that nobody's answer has to
leave before its access is recorded and the database is not asked for a transaction by each.
"""

import queue
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, insert, select

from export_pipeline.access.usage import Counted, add_counts
from export_pipeline.errors import ExportPipelineError
from export_pipeline.requests.database import RequestsDatabaseError, database_errors
from export_pipeline.requests.schema import access_events

ANONYMOUS = "anonymous"
MOST_WAITING = 10_000
"""Accesses that wait to be recorded; more are refused."""
_MOST_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class AccessEvent:
    """One access, allowed or refused. ``actor`` is a token's or a link's id, ``status`` that of HTTP."""

    actor: str
    action: str
    status: int
    app_id: str | None = None
    target: str | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class _Waiting:
    event: AccessEvent | None
    counts: Counter[Counted]
    recorded: "Future[None]"


class Recorder:
    """Records accesses and counts, from any thread. Its own thread begins with the first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def record(self, event: AccessEvent | None = None, counts: Counter[Counted] | None = None) -> "Future[None]":
        """Hand over an access, counts, or both. The future is done once they are recorded, or has the error."""
        waiting = _Waiting(event, counts or Counter(), Future())
        self._start()
        try:
            self._waiting.put_nowait(waiting)
        except queue.Full:
            waiting.recorded.set_exception(RequestsDatabaseError("accesses are not recorded as fast as they come"))
        return waiting.recorded

    def close(self) -> None:
        """Record what was handed over, and end."""
        with self._lock:
            if self._thread is not None:
                self._waiting.put(None)
                self._thread.join()
                self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="access history", daemon=True)
                    self._thread.start()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            together = [first]
            ending = False
            with suppress(queue.Empty):
                while len(together) < _MOST_AT_ONCE and not ending:
                    more = self._waiting.get_nowait()
                    ending = more is None
                    together += [] if more is None else [more]
            self._write(together)
            if ending:
                return

    def _write(self, together: Sequence[_Waiting]) -> None:
        counts: Counter[Counted] = Counter()
        for waiting in together:
            counts.update(waiting.counts)
        events = [asdict(waiting.event) for waiting in together if waiting.event is not None]
        error: ExportPipelineError | None = None
        try:
            with database_errors(), self._engine.begin() as connection:
                if events:
                    connection.execute(insert(access_events), events)
                add_counts(connection, counts)
        except Exception as raised:  # noqa: BLE001  # whatever it is, those who wait have to hear of it
            error = raised if isinstance(raised, ExportPipelineError) else RequestsDatabaseError(type(raised).__name__)
        for waiting in together:
            if not waiting.recorded.set_running_or_notify_cancel():
                continue
            waiting.recorded.set_exception(error) if error else waiting.recorded.set_result(None)


def accesses(engine: Engine, *, app_id: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """Return the latest accesses, the newest first, of one app or of all."""
    query = select(access_events).order_by(access_events.c.id.desc()).limit(limit)
    if app_id is not None:
        query = query.where(access_events.c.app_id == app_id)
    with database_errors(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
