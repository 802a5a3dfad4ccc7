"""An app's events as lines of JSON: read at one moment, in the order of their ids, in flat memory.

Read are the collections that the catalogue says are events; what it excludes or masks does not leave.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pymongo
from bson.raw_bson import RawBSONDocument

from export_pipeline.backups.ranges import IdRange
from export_pipeline.backups.reading import CollectionReader, range_query
from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.catalog.narrowing import Narrowing, extra_conditions
from export_pipeline.errors import BadInputError, MongoUnreachableError, ReadFailedError
from export_pipeline.formats.bson_fields import fields
from export_pipeline.formats.extended_json import Encoded, Mode, encode_batch
from export_pipeline.gateway.events_cursor import Position
from export_pipeline.gateway.problems import ASK_AGAIN_AFTER, ProblemError
from export_pipeline.installation import Installation
from export_pipeline.mongo.bson_stream import documents, whole_documents
from export_pipeline.mongo.connection import Document, SnapshotTooOldError, driver_errors
from export_pipeline.mongo.pressure import Pace
from export_pipeline.mongo.snapshot import ClusterTime, CollectionId, Moment, choose_moment
from export_pipeline.slices.redact import Redactor

FIND_SERVER_SECONDS = 3.0
"""How long to look for a server: whoever asks by HTTP hears soon that there is none."""

PAGE_BYTES = 8 << 20
"""Of documents as BSON: a page ends with the one that reaches it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are asked for, and how they are written."""

    app_id: str
    narrowing: Narrowing
    """A range of dates."""
    mode: Mode


@dataclass(frozen=True, slots=True)
class Page:
    """Some events."""

    text: bytes
    """Tagged documents, with a comma and a line break between them."""
    events: int
    last: Position | None
    """The last one's position; None where no other follows it."""


class EventReader:
    """Reads an app's events as they were when it was made."""

    def __init__(self, installation: Installation, wanted: Wanted, mask_key: bytes) -> None:
        """Choose the moment. Raises a Problem where there is no MongoDB, or nothing of the app in it."""
        self._settings = installation.settings
        self._wanted = wanted
        self._mask_key = mask_key
        entries = event_entries(installation.catalog)
        self._names = {
            entry.name: (entry.database or self._settings.mongo_database, entry.collection_of(wanted.app_id))
            for entry in entries
        }
        self._redactors = {
            entry.name: Redactor(entry.exclude, entry.mask, mask_key)
            for entry in entries
            if entry.exclude or entry.mask
        }
        self._client = reached(installation)
        moment = self._moment()
        if not moment.collections:
            raise ProblemError(404, "no_events", "no collection of events exists for this app; check the app's id")
        found = [(entry, moment.collections.get(self._names[entry.name])) for entry in entries]
        self._sources = [(entry, source) for entry, source in found if source is not None]
        self._reader = self._reader_at(moment.cluster_time)
        self._times = [moment.cluster_time] if moment.cluster_time else []
        self.counts: Counter[str] = Counter()
        """How many events were read so far, by collection."""

    def page(self, limit: int, after: Position | None) -> Page:
        """Return up to ``limit`` events that follow a position; fewer where they are large.

        Raises a Problem where the position's collection is another one now, or one is read that has no unique ids.
        """
        texts: list[bytes] = []
        events = size = 0
        last: Position | None = None
        for entry, source in self._from(after):
            found: list[bytes] = []
            begin = after.last if after is not None and after.entry == entry.name else None
            query = range_query(IdRange(), self._selector(entry, begin))
            # One more than is wanted tells whether another page follows.
            batches = self._reader.limited_batches(source, query, limit - events + 1)
            for document in (document for batch in batches for document in documents(batch)):
                if events == limit or size >= PAGE_BYTES:
                    texts += self._texts(entry, source, found)
                    return Page(b",\n".join(texts), events, self._position(entry, source, found) or last)
                found.append(document)
                events += 1
                size += len(document)
            texts += self._texts(entry, source, found)
            last = self._position(entry, source, found) or last
        return Page(b",\n".join(texts), events, None)

    def lines(self) -> Iterator[bytes]:
        """Yield all events, some MB of lines at a time, and at the end the line that says how many there were.

        Without that line it is not the whole. Where the history of the moment ends before the events do, it goes on at
        a later moment, unless EXPORT_PIPELINE_REQUIRE_POINT_IN_TIME forbids it; the last line names each.
        """
        for entry, source in self._sources:
            for batch in self._whole(entry, source):
                encoded = self._encoded(entry, source, batch, b"\n")
                self.counts[source.name] += encoded.documents
                yield encoded.data + b"\n"
        times = [f"{time.seconds}.{time.increment}" for time in self._times]
        end = {"documents": self.counts.total(), "collections": dict(self.counts), "cluster_times": times}
        yield json.dumps({"_end": end}, separators=(",", ":")).encode() + b"\n"

    def _whole(self, entry: Entry, source: CollectionId) -> Iterator[bytes]:
        if source.uuid is None:  # a view, or a time series: no index on _id, and perhaps the same _id twice
            yield from self._reader.stored_batches(source, self._selector(entry, None))
            return
        last: bytes | None = None
        while True:
            begin = last
            try:
                for batch in self._reader.range_batches(source, IdRange(), self._selector(entry, begin)):
                    last = literal_id(batch[whole_documents(batch)[0][-1] :])
                    yield batch
                return
            except SnapshotTooOldError:
                if self._settings.require_point_in_time or last == begin:
                    raise
            self._go_on_later(source)

    def _go_on_later(self, source: CollectionId) -> None:
        moment = self._moment()
        if moment.collections.get((source.database, source.name)) != source:
            raise ReadFailedError(f"{source.name} was dropped, renamed or replaced while it was read")
        self._reader = self._reader_at(moment.cluster_time)
        self._times += [moment.cluster_time] if moment.cluster_time else []

    def _moment(self) -> Moment:
        return choose_moment(self._client, self._names.values(), required=self._settings.require_point_in_time)

    def _reader_at(self, at: ClusterTime | None) -> "_Reader":
        return _Reader(self._client, at, self._settings.read_timeout, Pace(self._client, self._settings))

    def _from(self, after: Position | None) -> Iterator[tuple[Entry, CollectionId]]:
        names = [entry.name for entry, _ in self._sources]
        first = 0
        if after is not None:
            first = names.index(after.entry) if after.entry in names else len(names)
            uuid = self._sources[first][1].uuid if first < len(names) else None
            if uuid is None or uuid.hex != after.source:
                raise ProblemError(409, "replaced", "a collection was replaced since the page before; begin again")
        for entry, source in self._sources[first:]:
            if source.uuid is None:
                raise ProblemError(
                    409, "no_pages", f"{source.name} has no index on _id; ask for application/x-ndjson instead"
                )
            yield entry, source

    def _selector(self, entry: Entry, after: bytes | None) -> Document:
        conditions = extra_conditions(entry, self._wanted.narrowing)
        if after is not None:
            # Unlike a plain $gt it goes on with the _ids of other types too.
            conditions.append({"$expr": {"$gt": ["$_id", RawBSONDocument(after)]}})
        return {"$and": conditions} if conditions else {}

    def _position(self, entry: Entry, source: CollectionId, found: list[bytes]) -> Position | None:
        if not found or source.uuid is None:
            return None
        return Position(entry.name, source.uuid.hex, literal_id(found[-1]), self._mask_key)

    def _texts(self, entry: Entry, source: CollectionId, found: list[bytes]) -> list[bytes]:
        return [self._encoded(entry, source, b"".join(found), b",\n").data] if found else []

    def _encoded(self, entry: Entry, source: CollectionId, batch: bytes, separator: bytes) -> Encoded:
        redactor = self._redactors.get(entry.name)
        if redactor is not None:
            # Nobody's own ids are spared: these are everybody's events.
            batch = b"".join(redactor.apply(document, ())[0] for document in documents(batch))
        return encode_batch(batch, source.name, self._wanted.mode, separator)


class _Reader(CollectionReader):
    def limited_batches(self, source: CollectionId, query: Document, limit: int) -> Iterator[bytes]:
        return self._batches(source, **query, limit=limit)


def event_entries(catalog: LoadedCatalog) -> list[Entry]:
    """Return the entries that are events. Raises a Problem where the catalogue names none."""
    entries = [entry for entry in catalog.entries if entry.events]
    if not entries:
        raise ProblemError(
            404, "no_events", "the catalogue names no collection of events; its operator says 'events: true' there"
        )
    return entries


def reached(installation: Installation) -> "pymongo.MongoClient[Document]":
    """Return the client of a MongoDB that answers. Raises a Problem with status 503 where none does."""
    try:
        client = installation.client
    except BadInputError as error:
        raise ProblemError(503, "mongo_not_configured", f"no MongoDB is configured: {error}") from None
    try:
        with pymongo.timeout(FIND_SERVER_SECONDS), driver_errors("the events"):
            client.admin.command("ping", read_preference=client.read_preference)
    except MongoUnreachableError as error:
        raise ProblemError(
            503,
            error.code,
            "the MongoDB that holds the events does not answer; try again later, or ask its operator",
            headers={"Retry-After": str(ASK_AGAIN_AFTER)},
        ) from None
    return client


def literal_id(document: bytes) -> bytes:
    """Return ``{"$literal": <the document's _id>}`` as BSON, bit for bit, whatever type it is of.

    >>> import bson
    >>> bson.decode(literal_id(bson.encode({"_id": 7, "a": 1})))
    {'$literal': 7}
    """
    found = next(field for field in fields(document, 0, len(document)) if field.name == b"_id")
    element = document[found.begin : found.begin + 1] + b"$literal\0" + document[found.value : found.end]
    return (len(element) + 5).to_bytes(4, "little") + element + b"\0"
