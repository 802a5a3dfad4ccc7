"""Reading samples of collections within a budget of time and documents, and looking up which words are uids."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from statistics import median_low
from time import monotonic
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ExecutionTimeout

from export_pipeline.catalog.drift.sampled_fields import LONGEST_UID, Uids, strings_at
from export_pipeline.mongo.bson_stream import ANYTHING
from export_pipeline.mongo.connection import Document, Right, driver_errors
from export_pipeline.mongo.snapshot import BYTE_FOR_BYTE

MOST_DOCUMENTS = 1000
"""The largest sample of one collection."""

UNKNOWN_SIZE = sys.maxsize

_ONE_QUERY = 0.1  # of the time, so that one slow collection cannot eat it all
_WORDS_PER_QUERY = 5000

# Damaged text is no uid, and would not be valid in JSON or in a query.
_READABLE = ANYTHING.with_options(unicode_decode_error_handler="replace")


class NotInBudgetError(Exception):
    """The budget has no room for this read."""


@dataclass(frozen=True, slots=True)
class Source:
    """A collection, or a view and the collection that it shows."""

    database: str
    name: str
    view_on: str | None = None


class BoundedReader:
    """Reads while the budget lasts, then raises NotInBudgetError.

    The time is looked at before each query and after each document; no query gets more than a tenth of it, or more
    than ``read_timeout``.
    """

    def __init__(
        self, client: "MongoClient[Document]", read_timeout: timedelta, seconds: float, documents: int
    ) -> None:
        self._client = client
        self._read_timeout = read_timeout.total_seconds()
        self._deadline = monotonic() + seconds
        self._one_query = seconds * _ONE_QUERY
        self._documents = documents
        self.sampled = 0

    def share(self, collections: int) -> int:
        """Return how many documents one of so many ``collections`` may take, if all still to come get the same."""
        left = self._documents - self.sampled
        if left <= 0:
            raise NotInBudgetError
        return max(1, min(left // collections, MOST_DOCUMENTS))

    def sample(self, source: Source, documents: int) -> Iterator[Any]:
        """Yield at most so many random ``documents``, fewer if that takes long."""
        with self._reading(source) as (collection, seconds):
            until = monotonic() + seconds
            pipeline = [{"$sample": {"size": documents}}]
            with collection.aggregate(pipeline, maxTimeMS=_milliseconds(seconds), allowDiskUse=True) as cursor:
                for document in cursor:
                    self.sampled += 1
                    yield document
                    if monotonic() > until:
                        break

    def size(self, source: Source) -> int:
        """Return about how many documents there are. A view would have to be read to be counted."""
        if source.view_on is not None:
            return UNKNOWN_SIZE
        with self._reading(source) as (collection, seconds):
            return int(collection.estimated_document_count(maxTimeMS=_milliseconds(seconds)))

    def existing(self, source: Source, path: str, words: set[str]) -> set[str]:
        """Return those of ``words`` that are at ``path`` of a document."""
        found: set[str] = set()
        rest = iter(words)
        projection = {path: 1} if path == "_id" else {path: 1, "_id": 0}
        while some := list(islice(rest, _WORDS_PER_QUERY)):
            with self._reading(source) as (collection, seconds):
                for document in collection.find(
                    {path: {"$in": some}}, projection, max_time_ms=_milliseconds(seconds), collation=BYTE_FOR_BYTE
                ):
                    found.update(strings_at(document, path.split(".")))
        return found & words

    @contextmanager
    def _reading(self, source: Source) -> Iterator[tuple[Any, float]]:
        seconds = min(self._read_timeout, self._one_query, self._deadline - monotonic())
        if seconds <= 0:
            raise NotInBudgetError
        with driver_errors(source.name, Right("find", source.database, source.name)):
            try:
                yield self._client[source.database].get_collection(source.name, _READABLE), seconds
            except ExecutionTimeout:
                if seconds < self._read_timeout:
                    raise NotInBudgetError from None
                raise


class KnownUids:
    """Tells which words are uids of an app's users.

    Two samples of a million people have hardly anybody in common, so words are looked up among the ``people``, the
    collection with a document for each person, by its index on the path of the uid. Where an app has no such
    collection, the strings met at the user keys of its entries have to do.
    """

    def __init__(self, reader: BoundedReader, people: tuple[Source, str] | None = None) -> None:
        self._reader = reader
        self.people = [people] if people else []
        self.met: set[str] = set()

    def join(self, others: "KnownUids") -> None:
        """Know the uids of another app as well."""
        self.people += others.people
        self.met |= others.met

    def meet(self, uids: Iterable[str]) -> None:
        """Remember strings found at a user key."""
        self.met.update(uids)

    def of_people(self, words: Iterable[str]) -> set[str]:
        """Return those of ``words`` that are people's uids; all of them if people cannot be looked up."""
        return self._look_up(set(words)) if self.people else set(words)

    def among(self, words: Iterable[str]) -> Uids:
        """Return which of ``words`` are uids."""
        wanted = set(words)
        known = wanted & self.met
        known |= self._look_up(wanted - known)
        return Uids(frozenset(known), usual_length=median_low(map(len, self.met)) if self.met else 1)

    def _look_up(self, words: set[str]) -> set[str]:
        found: set[str] = set()
        for source, path in self.people:
            found |= self._reader.existing(source, path, {word for word in words - found if len(word) <= LONGEST_UID})
        return found


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
