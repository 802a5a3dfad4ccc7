"""What becomes of a request that failed: tried again by itself, when, and in how large a company. No I/O.

Passing faults are tried again. A fault that the request may have caused itself keeps it away from others: a
request's own fault sends it alone; a lost run, which any request of its batch may have brought down, comes back in
batches of an eighth, until the guilty one travels alone and the others are done.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

RUN_LOST = "run_lost"

PASSING = frozenset(
    {
        "documents_lost",
        "interrupted",
        "mongo_unreachable",
        "read_failed",
        "requests_database",
        RUN_LOST,
        "snapshot_too_old",
        "source_under_pressure",
        "storage",
    }
)
"""The codes of faults that may be gone in a while."""

_OF_THE_SURROUNDINGS = frozenset(
    {"interrupted", "mongo_unreachable", "not_authorized", "requests_database", "source_under_pressure", "storage"}
)
_OF_ANYONE_IN_THE_BATCH = frozenset({RUN_LOST, "snapshot_too_old"})

MOST_RETRIES = 4
FIRST_DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(minutes=10)
GROWTH = 4.0
"""10 s, 40 s, 160 s, 10 min: together they outlast a fail-over, a restart, or a short maintenance."""

SHARE = 8
"""A lost batch of 500 comes back as 8 of 63; of those one is lost, then one of 8: the guilty one is found in three
rounds, with some 25 runs instead of 500."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request stands after a failure."""

    status: Literal["pending", "failed"]
    retries: int
    """Automatic ones so far, this one included."""
    company: int | None
    """The most requests that its next batch may hold; None: any number."""
    delay: timedelta
    """How long it waits before that; zero for one that has failed for good."""


def after_failure(
    code: str, *, retries: int, company: int | None, size: int, by_itself: bool, jitter: float
) -> Standing:
    """Decide what becomes of a request of a batch of ``size`` running ones.

    ``retries`` and ``company`` are the row's, ``jitter`` is from 0 to 1, and ``by_itself`` tells whether anybody
    would try it again: nobody does for a command line that has its user's attention.
    """
    company = company_after(code, company, size)
    if code not in PASSING or not by_itself:
        return Standing("failed", retries, company, timedelta(0))
    if code in _OF_ANYONE_IN_THE_BATCH and size > 1:
        # Costs no retry, or a neighbour's fault could use up all of them; it ends since batches get smaller.
        return Standing("pending", retries, company, delay_before(0, jitter))
    if retries >= MOST_RETRIES:
        return Standing("failed", retries, company, timedelta(0))
    return Standing("pending", retries + 1, company, delay_before(retries, jitter))


def company_after(code: str, company: int | None, size: int) -> int | None:
    """Return the most requests that may share the next batch; see the module's opening."""
    if code in _OF_THE_SURROUNDINGS:
        return company
    if code in _OF_ANYONE_IN_THE_BATCH:
        return -(-size // SHARE)
    return 1


def delay_before(retries: int, jitter: float) -> timedelta:
    """Return how long to wait before the next retry: growing, and spread over its last quarter by ``jitter``."""
    whole = min(FIRST_DELAY.total_seconds() * GROWTH**retries, LONGEST_DELAY.total_seconds())
    return timedelta(seconds=whole * (0.75 + 0.25 * jitter))
