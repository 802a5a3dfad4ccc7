"""Cutting a collection into ranges of ``_id``, each about as large as a part. The cutting does no I/O.

Ranges meet without a gap, whatever their boundaries are: from one on, up to before the next, in the order of the index
on _id, which has all of BSON's types in one row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from export_pipeline.mongo.connection import Document, Right, driver_errors

MIN_KEY, MAX_KEY = 0xFF, 0x7F


@dataclass(frozen=True, slots=True)
class IdRange:
    """From ``begin`` on, up to before ``end``: documents ``{"_id": …}`` as BSON; None where nothing bounds it."""

    begin: bytes | None = None
    end: bytes | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """What the server says of a collection's size; what it says after a crash may be wrong."""

    bytes: int
    documents: int


def ranges_between(boundaries: Iterable[bytes]) -> Iterator[IdRange]:
    """Yield the ranges that ascending boundaries make: one more than there are boundaries.

    The least and the greatest key bound nothing: before or after them would be a range without documents.
    """
    bounds = [each for each in boundaries if each[4] not in (MIN_KEY, MAX_KEY)]
    return (IdRange(begin, end) for begin, end in pairwise([None, *bounds, None]))


def documents_per_range(size: Size, range_bytes: int) -> int | None:
    """Return how many documents make a range of about ``range_bytes``; None where one range will do.

    >>> documents_per_range(Size(bytes=1000, documents=100), 250), documents_per_range(Size(900, 100), 1000)
    (25, None)
    """
    if size.bytes <= range_bytes or size.documents < 2:
        return None
    ranges = -(-size.bytes // range_bytes)
    return max(1, -(-size.documents // ranges))  # alike, rather than a last one that is tiny


def size_of(client: "MongoClient[Document]", database: str, name: str) -> Size:
    """Return a collection's size, over all shards; nothing where the server does not tell it."""
    pipeline: list[Document] = [{"$collStats": {"storageStats": {}}}]
    with driver_errors(f"the size of {name}", Right("collStats", database, name)):
        try:
            found = [each["storageStats"] for each in client[database][name].aggregate(pipeline)]
        except OperationFailure:
            return Size(0, 0)  # then it is one range, and its parts are cut while they are written
    return Size(sum(int(each["size"]) for each in found), sum(int(each.get("count", 0)) for each in found))
