"""The queries of one slice: which filters find the documents, and whose each found document is.

Most collections take one query for all the batch's users. A hook computes a selector for one person at a time, so
there it takes one for each request.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from export_pipeline.catalog.hooks import computed_selector
from export_pipeline.catalog.model import Entry
from export_pipeline.catalog.narrowing import Narrowing, extra_conditions, projection, sort_order
from export_pipeline.errors import BadInputError
from export_pipeline.mongo.bson_stream import documents, view
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.snapshot import CollectionId, SnapshotReader
from export_pipeline.slices.identity import Person
from export_pipeline.slices.ownership import Ownership, values_at


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a slice."""

    selector: Document
    only_owner: str | None
    """The request that owns all that the query finds; None where each document has to be looked at."""
    ownership: Ownership
    number: int
    path: tuple[str, ...]

    def owners(self, document: bytes) -> set[str]:
        """Return the requests that a document belongs to; empty where an earlier query has found it already."""
        if self.only_owner is not None:
            return {self.only_owner}
        return self.ownership.owners(values_at(view(document), self.path), self.number)


class SliceQueries:
    """How one entry is read for a batch."""

    def __init__(self, entry: Entry, narrowing: Narrowing, app_id: str, people: Mapping[str, Person]) -> None:
        self.projection = projection(entry, narrowing)
        self.sort = sort_order(entry, narrowing)
        self.limit = narrowing.limit or 0
        ids = {request_id: _ids(person, entry) for request_id, person in people.items()}
        ownership = Ownership(ids)
        path = tuple(entry.user_key.split(".")) if entry.user_key else ()
        conditions = extra_conditions(entry, narrowing)
        make = partial(Query, ownership=ownership, path=path)
        if entry.hook is not None:
            self.queries = [
                make(_all_of([computed_selector(entry.hook, list(of), app_id), *conditions]), request_id, number=number)
                for number, (request_id, of) in enumerate(ids.items())
                if of  # who has no device has nothing there
            ]
        else:
            self.queries = [
                make(_all_of([{".".join(path): {"$in": cut}}, *conditions]), ownership.only_owner, number=number)
                for number, cut in enumerate(ownership.queries)
            ]
        if (self.limit or self.sort) and len(ownership.queries) > 1:
            raise BadInputError(
                f"{entry.name}: a request of so many ids takes several queries, so it cannot sort or limit"
            )

    def count(self, reader: SnapshotReader, source: CollectionId) -> dict[str, int]:
        """Count each request's documents on the server; one that belongs to two of its uids counts once."""
        counts: Counter[str] = Counter()
        for query in self.queries:
            counts.update(_count(reader, source, query))
        return {owner: min(found, self.limit or found) for owner, found in counts.items()}

    def read(self, reader: SnapshotReader, source: CollectionId) -> Iterator[tuple[Query, bytes]]:
        """Yield what each query finds, in raw batches."""
        for query in self.queries:
            for batch in reader.raw_batches(source, query.selector, self.projection, self.sort, self.limit):
                yield query, batch


def _count(reader: SnapshotReader, source: CollectionId, query: Query) -> Counter[str]:
    if query.only_owner is not None:
        found = reader.count(source, query.selector)
        return Counter({query.only_owner: found} if found else {})
    counts: Counter[str] = Counter()
    for value, found in reader.count_by_value(source, ".".join(query.path), query.selector):
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, list) for item in values):
            # Arrays in arrays: the aggregation's value no longer tells at which depth the query compares.
            return _count_one_by_one(reader, source, query)
        for owner in query.ownership.owners(values, query.number):
            counts[owner] += found
    return counts


def _count_one_by_one(reader: SnapshotReader, source: CollectionId, query: Query) -> Counter[str]:
    counts: Counter[str] = Counter()
    for batch in reader.raw_batches(source, query.selector, {".".join(query.path): 1}):
        for document in documents(batch):
            counts.update(query.owners(document))
    return counts


def _all_of(conditions: Sequence[Document]) -> Document:
    return conditions[0] if len(conditions) == 1 else {"$and": list(conditions)}


def _ids(person: Person, entry: Entry) -> tuple[str, ...]:
    return person.device_ids if entry.key_holds == "device_id" else person.uids
