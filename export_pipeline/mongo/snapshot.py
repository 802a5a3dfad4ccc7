"""Reading at one point in time: choosing a cluster time, and reading collections as they were then.

MongoDB's manual, "Read Concern snapshot": outside transactions ``find``, ``aggregate`` and ``distinct`` can read
at a cluster time; sessions, threads and processes that are given the same time read the same data.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from bson import Timestamp
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collation import Collation

from export_pipeline.errors import PointInTimeError, ReadFailedError
from export_pipeline.mongo.bson_stream import ANYTHING
from export_pipeline.mongo.connection import Document, Right, SnapshotTooOldError, driver_errors
from export_pipeline.mongo.pressure import Pace

BYTE_FOR_BYTE = Collation(locale="simple")
"""A collection may default to a collation that ignores case; another person's uid must not match by it."""

BATCH_BYTES = 4 * 1024 * 1024
"""About how much is read at a time. The driver holds a batch several times over: 16 MB, the server's most, take
100 MB of memory where 4 MB take 24, in the same time."""

FIRST_BATCH = 101
"""Documents; as many as the server gives by itself."""

_TRIES = 3
_BRIEFLY_MS = 60_000


@dataclass(frozen=True, slots=True)
class ClusterTime:
    """A moment in a replica set's history: seconds since the epoch, and an increment within the second."""

    seconds: int
    increment: int


@dataclass(frozen=True, slots=True)
class CollectionId:
    """Which collection a name stood for when the batch was planned; a view has no ``uuid``."""

    database: str
    name: str
    uuid: UUID | None

    @property
    def read_right(self) -> Right:
        """What it takes to read it."""
        return Right("find", self.database, self.name)


@dataclass(frozen=True, slots=True)
class Moment:
    """One point in time and the collections that existed then, by database and name.

    ``cluster_time`` is None where the server cannot give one (standalone), or where there is nothing to read.
    """

    cluster_time: ClusterTime | None
    collections: Mapping[tuple[str, str], CollectionId]


def choose_moment(
    client: "MongoClient[Document]", wanted: Iterable[tuple[str, str]], *, required: bool = True
) -> Moment:
    """Choose a cluster time at which to read the ``wanted`` (database, collection) pairs.

    With ``required`` a server that cannot give one raises PointInTimeError. A collection that appears while the
    time is being chosen might hold documents at that time, so the choice is then made again: `absent` has to be true.
    """
    names = list(wanted)
    before = _existing(client, names)
    for _ in range(_TRIES):
        cluster_time = _current_time(client, before, required=required)
        after = _existing(client, names)
        if after.keys() <= before.keys():
            return Moment(cluster_time, before)
        before = after
    raise ReadFailedError("collections keep appearing while the export is planned; try again")


class SnapshotReader:
    """Reads collections as they were at one cluster time, or as they are where that is None.

    With a ``pace`` it reads at that pace, and each of its reads may raise what ``Pace.wait`` does.
    """

    def __init__(
        self,
        client: "MongoClient[Document]",
        at: ClusterTime | None,
        time_limit: timedelta,
        pace: Pace | None = None,
    ) -> None:
        self._client = client
        self._at = at
        self._time_limit_ms = int(time_limit.total_seconds() * 1000)
        self._pace = pace

    def count_by_value(self, source: CollectionId, field: str, selector: Document) -> Iterator[tuple[Any, int]]:
        """Count the documents that match ``selector``, grouped by the value of ``field``.

        Each document is counted once, under its whole value: where that is an array, the group is the array.
        """
        pipeline: list[Document] = [{"$match": selector}, {"$group": {"_id": f"${field}", "documents": {"$sum": 1}}}]
        for group in self._aggregate(source, pipeline):
            yield group["_id"], group["documents"]

    def count(self, source: CollectionId, selector: Document) -> int:
        """Count the documents that match ``selector``."""
        pipeline: list[Document] = [{"$match": selector}, {"$count": "documents"}]
        return sum(result["documents"] for result in self._aggregate(source, pipeline))

    def find(self, source: CollectionId, selector: Document, projection: Mapping[str, int]) -> Iterator[Any]:
        """Yield views of the documents that match ``selector``, with the projected fields alone."""
        with self._reading(source) as session:
            found = self._collection(source).find(
                selector,
                projection,
                session=session,
                max_time_ms=self._time_limit_ms,
                collation=BYTE_FOR_BYTE,
            )
            yield from self._paced(found)

    def raw_batches(
        self,
        source: CollectionId,
        selector: Document,
        projection: Mapping[str, int] | None = None,
        sort: Sequence[tuple[str, int]] = (),
        limit: int = 0,
    ) -> Iterator[bytes]:
        """Yield the documents that match ``selector`` as whole BSON documents end to end, some 4 MB at a time.

        A batch is larger (16 MB at most, or one document) where the documents are larger than those before.
        Without a ``sort`` they come as the server's plan finds them; a ``limit`` of 0 is none.
        """
        with self._reading(source) as session:
            cursor = self._collection(source).find_raw_batches(
                selector,
                projection,
                sort=list(sort) or None,
                limit=limit,
                batch_size=FIRST_BATCH,
                allow_disk_use=True if sort else None,
                session=session,
                max_time_ms=self._time_limit_ms,
                collation=BYTE_FOR_BYTE,
            )
            yield from self._paced(_in_even_batches(cursor))

    def _aggregate(self, source: CollectionId, pipeline: list[Document]) -> Iterator[Any]:
        def answers(session: ClientSession | None) -> Generator[Any, None, None]:
            yield from self._collection(source).aggregate(
                pipeline,
                session=session,
                maxTimeMS=self._time_limit_ms,
                collation=BYTE_FOR_BYTE,
                allowDiskUse=True,
            )

        with self._reading(source) as session:
            yield from self._paced(answers(session))

    def _paced(self, answers: Any) -> Iterator[Any]:
        return answers if self._pace is None else self._pace(answers)

    def _collection(self, source: CollectionId) -> Any:
        return self._client[source.database].get_collection(source.name, ANYTHING)

    @contextmanager
    def _reading(self, source: CollectionId) -> Iterator[ClientSession | None]:
        with driver_errors(source.name, source.read_right):
            if self._at is None:
                yield None
            else:
                with self._client.start_session(snapshot=True) as session:
                    _pin(session, self._at)
                    yield session
            self._check_not_replaced(source)

    def _check_not_replaced(self, source: CollectionId) -> None:
        """Raise ReadFailedError if the collection was dropped meanwhile.

        The server reads a dropped collection as an empty one, at any cluster time, and says nothing.
        """
        names = [(source.database, source.name)]
        if _existing(self._client, names).get(names[0]) != source:
            raise ReadFailedError(f"{source.name} was dropped, renamed or replaced while it was read; retry")


def documents_to_ask_for(asked: int, got_bytes: int) -> int:
    """Return how many documents fill a batch, when the last time ``asked`` were ``got_bytes``."""
    return max(1, asked * BATCH_BYTES // max(1, got_bytes))


def _in_even_batches(cursor: Any) -> Generator[bytes, None, None]:
    asked = FIRST_BATCH
    for batch in cursor:
        yield batch
        asked = documents_to_ask_for(asked, len(batch))
        _ask_for(cursor, asked)


def _existing(
    client: "MongoClient[Document]", wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], CollectionId]:
    found = {}
    for database in {database for database, _ in wanted}:
        names = [name for of, name in wanted if of == database]
        with driver_errors(f"the list of collections of {database}", Right("listCollections", database)):
            for item in client[database].list_collections(filter={"name": {"$in": names}}, maxTimeMS=_BRIEFLY_MS):
                uuid = item["info"].get("uuid")
                found[database, item["name"]] = CollectionId(
                    database, item["name"], UUID(bytes=bytes(uuid)) if uuid is not None else None
                )
    return found


def _current_time(
    client: "MongoClient[Document]",
    existing: Mapping[tuple[str, str], CollectionId],
    *,
    required: bool,
) -> ClusterTime | None:
    """Return the newest cluster time that the server would read at; None if there is nothing to read.

    The first collection that can be read tells it; one that cannot concerns only those who need it.
    """
    unreadable = None
    for source in existing.values():
        try:
            with driver_errors(source.name, source.read_right), client.start_session(snapshot=True) as session:
                collection = client[source.database].get_collection(source.name, ANYTHING)
                collection.find_one({}, {"_id": 1}, session=session, max_time_ms=_BRIEFLY_MS)
                return _pinned(session)
        except ReadFailedError as error:
            unreadable = error
        except SnapshotTooOldError:
            raise  # passing: this server can read at one point in time
        except PointInTimeError:
            if not required:
                return None
            raise PointInTimeError(
                "this server cannot read at one point in time (it is not a replica set of MongoDB 5.0 or later); "
                "set EXPORT_PIPELINE_REQUIRE_POINT_IN_TIME=false to export from it all the same, "
                "and the manifest will say so"
            ) from None
    if unreadable is not None:
        raise unreadable
    return None


# PyMongo has no public way to give a session its snapshot time or to ask for it, nor to change a cursor's batch size
# on the way. All that knows of the private ones is here; test_snapshot.py fails when they change.


def _pin(session: ClientSession, at: ClusterTime) -> None:
    session._snapshot_time = Timestamp(at.seconds, at.increment)  # type: ignore[assignment]  # noqa: SLF001


def _pinned(session: ClientSession) -> ClusterTime:
    timestamp: Timestamp | None = session._snapshot_time  # noqa: SLF001
    if timestamp is None:
        raise PointInTimeError("the server answered a snapshot read without naming its cluster time")
    return ClusterTime(timestamp.time, timestamp.inc)


def _ask_for(cursor: Any, documents: int) -> None:
    cursor._batch_size = documents  # noqa: SLF001
