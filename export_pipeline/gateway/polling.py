"""When a caller who follows an export should ask again: later with each time."""

import math
import threading
from collections import OrderedDict

MOST_FOLLOWED = 100_000
"""Pairs of a caller and an export that are remembered; the one that was asked for longest ago is forgotten first."""


def retry_after(base: float, polls: int) -> float:
    """Return after how many seconds to ask again, at the n-th poll: ``base + ln(2^n)``.

    >>> round(retry_after(5, 3), 3)
    7.079
    """
    return base + polls * math.log(2)


class Polls:
    """How often each caller has asked for each export's state."""

    def __init__(self, most: int = MOST_FOLLOWED) -> None:
        self._most = most
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, caller: str, request_id: str) -> int:
        """Count a poll; return how many there were."""
        with self._lock:
            polls = self._counts.pop((caller, request_id), 0) + 1
            self._counts[caller, request_id] = polls
            if len(self._counts) > self._most:
                self._counts.popitem(last=False)
        return polls

    def forget(self, caller: str, request_id: str) -> None:
        """Forget them: the export has finished."""
        with self._lock:
            self._counts.pop((caller, request_id), None)
