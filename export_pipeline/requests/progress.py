"""Noting how far a request is, often enough to be true and seldom enough to cost nothing."""

import time

from export_pipeline.requests.store import RequestStore

PROGRESS_EVERY = 1.0
"""Seconds between two notes of a request's progress."""


class Progress:
    """Notes a request's progress in its row, at most once a second."""

    def __init__(self, requests: RequestStore, request_id: str, batch_id: str) -> None:
        self._requests = requests
        self._ids = (request_id, batch_id)
        self._next = time.monotonic() + PROGRESS_EVERY
        self._latest = (0, 0)

    def __call__(self, documents: int, written: int) -> None:
        """Take note of the documents and bytes so far."""
        self._latest = (documents, written)
        if time.monotonic() >= self._next:
            self.note()

    def note(self) -> None:
        """Write the latest figures. Raises StaleRequestError if the request does not run in this batch any more."""
        documents, written = self._latest
        self._requests.progress(*self._ids, documents_done=documents, bytes_written=written)
        self._next = time.monotonic() + PROGRESS_EVERY
