"""Noting how far a batch and each of its requests are, often enough to be true and seldom enough to cost nothing.

A row's ``progress`` column has the phase (``reading``: the batch as a whole, ``writing``: the request), when it
began, and by collection the documents expected, the documents done, and the bytes done.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line shows progress, and most of its commands need no database
    from export_pipeline.requests.store import RequestStore

PROGRESS_EVERY = 1.0
"""Seconds between two notes."""

READING = "reading"
WRITING = "writing"


class Tally:
    """Documents and bytes by collection, as they grow."""

    def __init__(self, phase: str, expected: Mapping[str, int]) -> None:
        self._phase = phase
        self._since = datetime.now(UTC)
        self._rows = {name: [documents, 0, 0] for name, documents in expected.items() if documents}
        self._seen = (0, 0)

    def add(self, name: str, documents: int, written: int = 0) -> None:
        """Count more of a collection."""
        row = self._rows.setdefault(name, [0, 0, 0])
        row[1] += documents
        row[2] += written

    def advance(self, documents: int, written: int) -> None:
        """Count up to these totals over all collections, which are written one after another, each to its end."""
        more, more_bytes = documents - self._seen[0], written - self._seen[1]
        self._seen = (documents, written)
        current = next((name for name, (expected, done, _) in self._rows.items() if done < expected), None)
        if current is not None:
            self.add(current, more, more_bytes)

    def stored(self) -> dict[str, Any]:
        """Return the ``progress`` column."""
        return {"phase": self._phase, "since": self._since.isoformat(), "collections": self._rows}


class Progress:
    """Notes a request's progress in its row, at most once a second."""

    def __init__(
        self, requests: "RequestStore", request_id: str, batch_id: str, expected: Mapping[str, int] | None = None
    ) -> None:
        self._requests = requests
        self._ids = (request_id, batch_id)
        self._next = time.monotonic() + PROGRESS_EVERY
        self._latest = (0, 0)
        self._tally = Tally(WRITING, expected or {})

    def __call__(self, documents: int, written: int) -> None:
        """Take note of the documents and bytes so far."""
        self._latest = (documents, written)
        self._tally.advance(documents, written)
        if time.monotonic() >= self._next:
            self.note()

    def note(self) -> None:
        """Write the latest figures. Raises StaleRequestError if the request does not run in this batch any more."""
        documents, written = self._latest
        self._requests.progress(
            *self._ids, documents_done=documents, bytes_written=written, progress=self._tally.stored()
        )
        self._next = time.monotonic() + PROGRESS_EVERY


class ReadingProgress:
    """Notes how far the reading of a batch's slices is, in all of its rows, at most once a second."""

    def __init__(self, requests: "RequestStore", batch_id: str, expected: Mapping[str, int]) -> None:
        self._requests = requests
        self._batch_id = batch_id
        self._next = time.monotonic() + PROGRESS_EVERY
        self._tally = Tally(READING, expected)

    def __call__(self, name: str, documents: int) -> None:
        """Take note of documents just read. Raises StaleRequestError if none of the batch's requests runs any more."""
        self._tally.add(name, documents)
        if time.monotonic() >= self._next:
            self._requests.batch_progress(self._batch_id, self._tally.stored())
            self._next = time.monotonic() + PROGRESS_EVERY


def time_left(progress: Mapping[str, Any] | None, now: datetime) -> timedelta | None:
    """Return about how long a running request still takes; None while nothing tells.

    From the documents of the phase so far; after reading comes writing, which is taken to be as fast.
    """
    if not progress:
        return None
    rows = progress["collections"].values()
    expected = int(sum(row[0] for row in rows))
    done = min(int(sum(row[1] for row in rows)), expected)
    passed = now - datetime.fromisoformat(progress["since"])
    if not done or passed <= timedelta(0):
        return None
    to_come = expected - done + (expected if progress["phase"] == READING else 0)
    return passed * (to_come / done)
