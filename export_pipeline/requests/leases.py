"""Signs of life: who works on a batch renews its lease; who watches leases finds the workers that died.

A lease's time is told for people. The watch never compares it with a clock, which may jump, or differ from one
machine to the next: to the watch it is a mark that a living worker keeps changing. A worker is taken for dead when
its mark has stood still for SILENCE, measured by the watcher's own monotonic clock and seen on several looks.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from time import monotonic
from typing import Self

from export_pipeline.errors import ExportPipelineError, StaleRequestError
from export_pipeline.requests.rows import now
from export_pipeline.requests.working import BatchWork

log = logging.getLogger(__name__)

BEAT = 10.0
"""Seconds between two signs of life."""

LEASE = timedelta(seconds=60)
"""How long a sign of life is good for."""

SILENCE = LEASE.total_seconds()
"""Seconds without a sign of life after which a worker counts as dead."""

MOST_BETWEEN_LOOKS = SILENCE / 2
"""The most seconds that count between two looks: while nobody looked, nobody was seen dead."""


class Lease:
    """Shows signs of life for a batch from a thread of its own, for as long as the block lasts."""

    def __init__(self, requests: BatchWork, batch_id: str, beat: float = BEAT) -> None:
        self._requests = requests
        self._batch_id = batch_id
        self._beat = beat
        self._over = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name=f"lease of {batch_id}", daemon=True)

    def __enter__(self) -> Self:
        self._renew()
        if not self._lost:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise StaleRequestError once none of the batch's requests runs any more: cancelled, or given up."""
        if self._lost:
            raise StaleRequestError(f"batch {self._batch_id} has no running request any more; its work stops")

    def _keep(self) -> None:
        while not self._lost and not self._over.wait(self._beat):
            try:
                self._renew()
            except ExportPipelineError as error:  # the next one may succeed; until then the work goes on
                log.warning("batch %s: its lease could not be renewed: %s", self._batch_id, error)

    def _renew(self) -> None:
        self._lost = self._requests.renew_lease(self._batch_id, now() + LEASE) == 0


class Watch:
    """Looks at the marks of many workers, again and again, and tells which have stood still for too long.

    Dagster replaces the process of a sensor about once a minute: what was seen so far is the ``memory`` of one Watch,
    a text, and is given to the next. The clock is one that a machine's processes share; on another machine, or after
    a restart, a single look may count for too much or too little, and several are needed.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, memory: str | None = None) -> None:
        self._clock = clock
        self._looked_at, self._still = _remembered(memory)

    @property
    def memory(self) -> str:
        """What was seen so far."""
        return json.dumps([self._looked_at, self._still])

    def silent(self, marks: Mapping[str, object]) -> set[str]:
        """Return the workers whose mark has not changed for SILENCE; ``marks`` are all there are now."""
        at = self._clock()
        passed = 0.0 if self._looked_at is None else min(max(at - self._looked_at, 0.0), MOST_BETWEEN_LOOKS)
        self._looked_at = at
        self._still = {worker: _still_for(self._still.get(worker), str(mark), passed) for worker, mark in marks.items()}
        return {worker for worker, (_, seconds) in self._still.items() if seconds >= SILENCE}


def _remembered(memory: str | None) -> tuple[float | None, dict[str, tuple[str, float]]]:
    try:
        looked_at, still = json.loads(memory or "")
        return float(looked_at), {worker: (str(mark), float(seconds)) for worker, (mark, seconds) in still.items()}
    except (ValueError, TypeError, AttributeError):
        return None, {}  # nobody has looked before; or another version's memory, and we look anew


def _still_for(before: tuple[str, float] | None, mark: str, passed: float) -> tuple[str, float]:
    """Return the mark, with the seconds for which it has been seen to stand still."""
    return (mark, before[1] + passed) if before is not None and before[0] == mark else (mark, 0.0)
