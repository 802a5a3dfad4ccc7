"""Rate limits: how many calls within any minute, by whom. They are counted in this process alone."""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from export_pipeline.gateway.problems import ProblemError
from export_pipeline.settings import Settings


class RateLimits:
    """The calls of the last minute."""

    def __init__(self, settings: Settings) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._most = {
            "token": RateLimitItemPerMinute(settings.token_rate_limit),
            "app": RateLimitItemPerMinute(settings.app_rate_limit),
            "anonymous": RateLimitItemPerMinute(settings.anonymous_rate_limit),
        }

    def hit(self, kind: str, whose: str) -> None:
        """Count a call of a token, an app, or an anonymous address. Raises a Problem where it is one too many."""
        most = self._most[kind]
        if self._limiter.hit(most, kind, whose):
            return
        wait = max(1, math.ceil(self._limiter.get_window_stats(most, kind, whose).reset_time - time.time()))
        raise ProblemError(
            429,
            "too_many_calls",
            f"at most {most.amount} calls a minute are allowed here; try again in {wait} s",
            headers={"Retry-After": str(wait)},
        )
