"""Reading a collection for a backup: by ranges of ``_id``, a shared one by the app, a capped one as it lies.

``_id`` is compared as its index does it. A plain ``$gt`` would drop documents whose _id has another type than the
bound.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bson.raw_bson import RawBSONDocument

from export_pipeline.backups.ranges import MAX_KEY, IdRange
from export_pipeline.backups.raw_cursor import LeanRawBatchCursor
from export_pipeline.mongo.bson_stream import ANYTHING
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.snapshot import BYTE_FOR_BYTE, FIRST_BATCH, CollectionId, SnapshotReader
from export_pipeline.mongo.snapshot import _existing as collection_ids
from export_pipeline.mongo.snapshot import _in_even_batches as in_even_batches

__all__ = ["CollectionReader", "collection_ids", "range_query", "read_ahead"]

BY_ID = {"_id": 1}


class CollectionReader(SnapshotReader):
    """A SnapshotReader that reads whole collections."""

    def range_batches(self, source: CollectionId, of: IdRange, selector: Document) -> Iterator[bytes]:
        """Yield a range's documents, or those that match ``selector`` as well, in the order of the index on _id."""
        return self._batches(source, **range_query(of, selector))

    def stored_batches(self, source: CollectionId, selector: Document) -> Iterator[bytes]:
        """Yield the documents in the order in which they are stored, or measured where it is a time series."""
        return self._batches(source, filter=selector)

    def app_batches(self, source: CollectionId, selector: Document) -> Iterator[bytes]:
        """Yield the documents that match byte for byte, ordered by _id."""
        return self._batches(source, filter=selector, sort=BY_ID, allow_disk_use=True, collation=BYTE_FOR_BYTE)

    def boundaries(self, source: CollectionId, step: int) -> Iterator[bytes]:
        """Yield every ``step``-th document's ``{"_id": …}``, but the first's, by one walk through the index on _id."""
        before: bytes | None = None
        while True:
            of = {} if before is None else {"min": _bound(before)}
            with self._reading(source) as session:
                found = self._collection(source).find(
                    {}, BY_ID, **of, hint=BY_ID, sort=BY_ID, skip=step, limit=1, session=session,
                    max_time_ms=self._time_limit_ms,
                )  # fmt: skip
                before = next((document.raw for document in self._paced(iter(found))), None)
            if before is None or before[4] == MAX_KEY:  # which bounds nothing
                return
            yield before

    def count_all(self, source: CollectionId, selector: Document, *, byte_for_byte: bool = False) -> int:
        """Count the documents that match."""
        return self._count([{"$match": selector}], source, **({"collation": BYTE_FOR_BYTE} if byte_for_byte else {}))

    def count_range(self, source: CollectionId, of: IdRange) -> int:
        """Count a range's documents by the index on _id, which has to end, or to begin, with it."""
        query = range_query(of, {})
        stages: list[Document] = [{"$match": query["filter"]}] if query["filter"] else []
        return self._count(stages, source, hint=BY_ID)

    def _count(self, stages: list[Document], source: CollectionId, **options: Any) -> int:
        with self._reading(source) as session:
            found = self._collection(source).aggregate(
                [*stages, {"$count": "documents"}], session=session, maxTimeMS=self._time_limit_ms, **options
            )
            return sum(int(each["documents"]) for each in self._paced(iter(found)))

    def _batches(self, source: CollectionId, **query: Any) -> Iterator[bytes]:
        with self._reading(source) as session:
            cursor = LeanRawBatchCursor(
                self._collection(source),
                **query,
                batch_size=FIRST_BATCH,
                session=session,
                max_time_ms=self._time_limit_ms,
            )
            yield from self._paced(in_even_batches(cursor))


def read_ahead(batches: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the batches; while one is being dealt with, the server is asked for the next."""
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = ahead.submit(next, batches, None)
            yield batch


def range_query(of: IdRange, selector: Document) -> dict[str, Any]:
    """Return the arguments of a ``find`` for a range.

    By the index' bounds, which are in BSON's order and in the collection's own collation. An open end would leave out
    the greatest key of all, MaxKey, so the last range is found by an expression, which compares in the same order.
    """
    query: dict[str, Any] = {"filter": selector, "hint": BY_ID, "sort": BY_ID}
    if of.end is not None:
        query |= {"max": _bound(of.end)} | ({} if of.begin is None else {"min": _bound(of.begin)})
    elif of.begin is not None:
        from_begin = {"$expr": {"$gte": ["$_id", {"$literal": _bound(of.begin)["_id"]}]}}
        query["filter"] = {"$and": [from_begin, selector]} if selector else from_begin
    return query


def _bound(document: bytes) -> Mapping[str, Any]:
    return RawBSONDocument(document, ANYTHING)
