"""Kindness to the source: reading pauses while it works too hard, and only so many reads are under way at once.

Looked at are how far secondaries are behind their primary, and how full and how dirty WiredTiger's cache is. What
a server does not tell this user is not watched, which a log line says once: the role ``read`` alone is enough to read.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from threading import BoundedSemaphore, Lock
from typing import Self, TypeVar
from weakref import WeakKeyDictionary

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, ServerSelectionTimeoutError
from pymongo.server_description import ServerDescription

from export_pipeline.errors import ExportPipelineError
from export_pipeline.mongo.connection import AUTHENTICATION_FAILED, Document
from export_pipeline.settings import Settings

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

LOOK_EVERY = 2.0
"""Seconds for which a look at the source is good; one costs the server less than a millisecond."""

FIRST_NAP = 2.0
LONGEST_NAP = 8.0
"""Seconds between two looks while reading pauses: each nap is twice as long as the one before."""

LAG = "replication lag"
CACHE = "cache pressure"

_LOOK_MS = 2_000
# Sections of serverStatus that make most of its work; a server that does not know one does not mind.
_NOT_ASKED_FOR = ("indexStats", "locks", "metrics", "tcmalloc")

# Unauthorized, IllegalOperation, CommandNotFound, NoReplicationEnabled, CommandNotSupported, APIStrictError, Atlas's
_REFUSALS = {13, 20, 59, 76, 115, 323, 8000}


class SourceUnderPressureError(ExportPipelineError):
    """The source worked too hard for longer than reading may pause; passing, so worth a retry."""

    code = "source_under_pressure"


@dataclass(frozen=True, slots=True)
class Measured:
    """How hard the source works; None is what is not known."""

    lag: timedelta | None = None
    """How far the furthest secondary is behind its primary, of those that may be read from."""
    cache_dirty: float | None = None
    """The share of the cache that holds changes which are not on disk yet."""
    cache_used: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on reading pauses; None is no limit."""

    lag: timedelta | None = None
    cache_dirty: float | None = None
    cache_used: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits that the settings name, where 0 is none."""
        return cls(
            lag=settings.max_replication_lag or None,
            cache_dirty=settings.max_cache_dirty or None,
            cache_used=settings.max_cache_used or None,
        )


def reason_to_pause(measured: Measured, limits: Limits) -> str | None:
    """Return why reading has to pause, as a clause for people; None where nothing speaks against reading."""
    if measured.lag is not None and limits.lag is not None and measured.lag >= limits.lag:
        behind, allowed = measured.lag.total_seconds(), limits.lag.total_seconds()
        return f"a secondary is {behind:.0f} s behind (EXPORT_PIPELINE_MAX_REPLICATION_LAG is {allowed:g} s)"
    for share, limit, what, setting in (
        (measured.cache_dirty, limits.cache_dirty, "waits to be written", "EXPORT_PIPELINE_MAX_CACHE_DIRTY"),
        (measured.cache_used, limits.cache_used, "is in use", "EXPORT_PIPELINE_MAX_CACHE_USED"),
    ):
        if share is not None and limit is not None and share >= limit:
            return f"{share:.1%} of the server's cache {what} ({setting} is {limit:g})"
    return None


class SourceHealth:
    """How hard one source works, for all that read from it in this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._measured = Measured()
        self._good_until = 0.0
        self._unwatched: set[str] = set()

    def look(self, client: "MongoClient[Document]") -> Measured:
        """Return what was measured last, at most LOOK_EVERY ago.

        Raises ServerSelectionTimeoutError, and OperationFailure for a login that is refused.
        """
        with self._lock:
            if time.monotonic() >= self._good_until:
                used, dirty = self._cache(client)
                self._measured = Measured(lag=self._lag(client), cache_dirty=dirty, cache_used=used)
                self._good_until = time.monotonic() + LOOK_EVERY
            return self._measured

    def _lag(self, client: "MongoClient[Document]") -> timedelta | None:
        """Return the lag as the driver's heartbeats know it, at no cost; by a direct connection the server is asked."""
        topology = client.topology_description
        if topology.topology_type_name.startswith("ReplicaSet"):
            if client.read_preference.name in ("Primary", "PrimaryPreferred"):
                return None
            return lag_of(topology.known_servers)
        status = self._ask(client, LAG, {"replSetGetStatus": 1})
        return None if status is None else lag_of_self(status)

    def _cache(self, client: "MongoClient[Document]") -> tuple[float | None, float | None]:
        """Return the used and the dirty share of a member's cache: one that the read preference chooses."""
        status = self._ask(client, CACHE, {"serverStatus": 1, **dict.fromkeys(_NOT_ASKED_FOR, 0)})
        if status is None:
            return None, None
        cache = status.get("wiredTiger", {}).get("cache")
        if cache is None:  # mongos, or another storage engine
            self._leave_unwatched(CACHE, "the server has no WiredTiger cache of its own")
            return None, None
        whole = cache["maximum bytes configured"]
        return cache["bytes currently in the cache"] / whole, cache["tracked dirty bytes in the cache"] / whole

    def _ask(self, client: "MongoClient[Document]", what: str, command: Document) -> Document | None:
        if what in self._unwatched:
            return None
        try:
            return client.admin.command({**command, "maxTimeMS": _LOOK_MS}, read_preference=client.read_preference)
        except ServerSelectionTimeoutError:
            raise
        except OperationFailure as error:
            if error.code == AUTHENTICATION_FAILED:
                raise  # the driver takes a server that refused a login for one that is not there, from now on
            if error.code in _REFUSALS:
                name = (error.details or {}).get("codeName", f"code {error.code}")
                self._leave_unwatched(what, f"the server refuses to tell ({name}); the role 'clusterMonitor' allows it")
        except ConnectionFailure:
            pass  # what reads after this look is tried again by the driver, so a look must not be what fails
        return None

    def _leave_unwatched(self, what: str, why: str) -> None:
        self._unwatched.add(what)
        log.info("%s is not watched while reading: %s", what, why)


def lag_of(servers: "list[ServerDescription]") -> timedelta | None:
    """Return how far the furthest secondary is behind the primary; None where there is no primary to compare with.

    As the driver estimates staleness (Server Selection specification): a write's age when the member last told of
    it, against the same of the primary's. Members tell at each heartbeat, every 10 s by default.
    """
    ages: dict[str, list[float]] = {"RSPrimary": [], "RSSecondary": []}
    for server in servers:
        if server.server_type_name in ages and server.last_write_date is not None:
            ages[server.server_type_name].append(server.last_update_time - server.last_write_date)
    if not ages["RSPrimary"]:
        return None
    behind = [age - ages["RSPrimary"][0] for age in ages["RSSecondary"]]
    return timedelta(seconds=max(0.0, *behind)) if behind else timedelta(0)


def lag_of_self(status: Document) -> timedelta | None:
    """Return how far the member that answered replSetGetStatus is behind the primary; None where it sees none."""
    members = status["members"]
    own = [member["optimeDate"] for member in members if member.get("self") and "optimeDate" in member]
    primary = [member["optimeDate"] for member in members if member["stateStr"] == "PRIMARY"]
    return max(timedelta(0), primary[0] - own[0]) if own and primary else None


class Pace:
    """The pace of one piece of work, such as a slice: it pauses under pressure and waits for its turn to read.

    A turn is one round trip to the server, so who looks at what was read, or pauses, keeps nobody else from reading.
    """

    def __init__(
        self,
        client: "MongoClient[Document]",
        settings: Settings,
        on_pause: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``on_pause`` is called at the beginning of each nap; what it raises ends the work."""
        self._client = client
        self._health = health_of(client)
        self._limits = Limits.of(settings)
        self._turns = _turns(settings.concurrent_reads)
        self._longest = settings.max_pause
        self._left = settings.max_pause.total_seconds()
        self._on_pause = on_pause
        self._sleep = sleep

    def wait(self) -> None:
        """Return at once, or when the source is no longer under pressure.

        Raises SourceUnderPressureError once all pauses of this work together are longer than EXPORT_PIPELINE_MAX_PAUSE,
        and what the driver raises where there is no server, or the server does not let us in.
        """
        nap, paused = FIRST_NAP, 0.0
        while (reason := self._reason()) is not None:
            if self._left <= 0:
                raise SourceUnderPressureError(
                    f"reading paused for {self._longest} in all and still must not go on: {reason}; retry later, see "
                    "what else the server does, or raise the setting"
                )
            if not paused:
                log.warning("reading pauses: %s", reason)
            self._on_pause()
            seconds = min(nap, self._left)
            self._sleep(seconds)
            self._left -= seconds
            paused += seconds
            nap = min(2 * nap, LONGEST_NAP)
        if paused:
            log.warning("reading goes on after %.0f s", paused)

    def __call__(self, answers: Generator[Answer, None, None]) -> Iterator[Answer]:
        """Yield the ``answers``, one round trip to the server at a time, at this pace."""
        with closing(answers):
            while True:
                self.wait()
                with self._turns:
                    try:
                        answer = next(answers)
                    except StopIteration:
                        return
                yield answer

    def _reason(self) -> str | None:
        if self._limits == Limits():
            return None
        return reason_to_pause(self._health.look(self._client), self._limits)


_healths: "WeakKeyDictionary[MongoClient[Document], SourceHealth]" = WeakKeyDictionary()
_healths_lock = Lock()


def health_of(client: "MongoClient[Document]") -> SourceHealth:
    """Return the health of the source that ``client`` reads from; clients of the same servers share it."""
    with _healths_lock:
        return _healths.setdefault(client, SourceHealth())


@lru_cache
def _turns(concurrent_reads: int) -> BoundedSemaphore:
    """Return what caps the reads of this process, which has one setting."""
    return BoundedSemaphore(concurrent_reads)
