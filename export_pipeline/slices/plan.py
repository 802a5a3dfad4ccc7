"""The plan of a batch: who, which collections, at which moment, and how many documents the server counts there.

It is stored before anything is read, so that a retried run reads the same moment and takes up finished slices.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field
from pymongo import MongoClient

from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.errors import ExportPipelineError, MongoUnreachableError, UnknownAppError
from export_pipeline.mongo.bson_stream import documents, view
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.snapshot import ClusterTime, CollectionId, SnapshotReader, choose_moment
from export_pipeline.settings import Settings
from export_pipeline.slices.ownership import Ownership, values_at
from export_pipeline.storage import Storage


class Stored(BaseModel):
    """Base of what is kept as JSON beside the slices."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedRequest(Stored):
    """One request of the batch."""

    id: str
    uids: tuple[str, ...] = Field(repr=False)


class Failure(Stored):
    """Why a collection could not be read."""

    code: str
    message: str

    @classmethod
    def of(cls, error: ExportPipelineError) -> "Failure":
        """Return the failure that ``error`` tells of."""
        return cls(code=error.code, message=str(error))


class PlannedCollection(Stored):
    """One entry of the catalogue, as it stands in the database; ``source`` is None where it is absent."""

    name: str
    source: CollectionId | None
    expected: Mapping[str, int]
    """Documents by request id, counted by the server at the plan's moment; none where there are none."""
    failure: Failure | None = None


class BatchPlan(Stored):
    """All that the readers of one batch need to know."""

    batch_id: str
    app_id: str
    cluster_time: ClusterTime | None
    planned_at: datetime
    catalog_sha256: str
    requests: tuple[PlannedRequest, ...]
    collections: tuple[PlannedCollection, ...]

    def ownership(self) -> Ownership:
        """Return whose documents are whose."""
        return Ownership({request.id: request.uids for request in self.requests})

    def collection(self, name: str) -> PlannedCollection:
        """Return the planned collection of the catalogue's entry ``name``."""
        return next(collection for collection in self.collections if collection.name == name)

    def expected_of(self, request_id: str) -> int:
        """Return how many documents a request expects over all collections."""
        return sum(collection.expected.get(request_id, 0) for collection in self.collections)


def make_plan(
    client: MongoClient[Document],
    settings: Settings,
    catalog: LoadedCatalog,
    batch_id: str,
    app_id: str,
    requests: Sequence[PlannedRequest],
) -> BatchPlan:
    """Choose the moment and count. Raises what makes the whole batch impossible.

    A collection that cannot be counted is planned with its failure instead: it concerns only those who need it.
    """
    sources = {
        entry.name: (entry.database or settings.mongo_database, entry.collection_of(app_id))
        for entry in catalog.entries
    }
    moment = choose_moment(client, sources.values(), required=settings.require_point_in_time)
    if not moment.collections:
        raise UnknownAppError(
            f"no collection of the catalogue exists for app {app_id}; check the app id, "
            "EXPORT_PIPELINE_MONGO_DATABASE and EXPORT_PIPELINE_CATALOG"
        )
    ownership = Ownership({request.id: request.uids for request in requests})
    reader = SnapshotReader(client, moment.cluster_time, settings.read_timeout)
    return BatchPlan(
        batch_id=batch_id,
        app_id=app_id,
        cluster_time=moment.cluster_time,
        planned_at=datetime.now(UTC),
        catalog_sha256=catalog.sha256,
        requests=tuple(requests),
        collections=tuple(
            _plan_collection(reader, entry, moment.collections.get(sources[entry.name]), ownership)
            for entry in catalog.entries
        ),
    )


def selector(entry: Entry, uids: Sequence[str]) -> Document:
    """Return the query that finds the documents of ``uids``."""
    return {entry.user_key: {"$in": list(uids)}}


def _plan_collection(
    reader: SnapshotReader, entry: Entry, source: CollectionId | None, ownership: Ownership
) -> PlannedCollection:
    if source is None:
        return PlannedCollection(name=entry.name, source=None, expected={})
    try:
        expected = count_by_request(reader, entry, source, ownership)
    except MongoUnreachableError:
        raise  # no collection can be read now; there is nothing to be planned
    except ExportPipelineError as error:
        return PlannedCollection(name=entry.name, source=source, expected={}, failure=Failure.of(error))
    return PlannedCollection(name=entry.name, source=source, expected=expected)


def count_by_request(
    reader: SnapshotReader, entry: Entry, source: CollectionId, ownership: Ownership
) -> dict[str, int]:
    """Count each request's documents in a collection; a document of two of its uids counts once."""
    counts: Counter[str] = Counter()
    for query, uids in enumerate(ownership.queries):
        for value, found in reader.count_by_value(source, entry.user_key, selector(entry, uids)):
            values = value if isinstance(value, list) else [value]
            if any(isinstance(item, list) for item in values):
                # Arrays in arrays: the aggregation's value no longer tells at which depth the query compares.
                return _count_one_by_one(reader, entry, source, ownership)
            for owner in ownership.owners(values, query):
                counts[owner] += found
    return dict(counts)


def _count_one_by_one(
    reader: SnapshotReader, entry: Entry, source: CollectionId, ownership: Ownership
) -> dict[str, int]:
    counts: Counter[str] = Counter()
    path = entry.user_key.split(".")
    for query, uids in enumerate(ownership.queries):
        for batch in reader.raw_batches(source, selector(entry, uids), {entry.user_key: 1}):
            for document in documents(batch):
                counts.update(ownership.owners(values_at(view(document), path), query))
    return dict(counts)


def plan_key(batch_id: str) -> str:
    """Return where a batch's plan is stored."""
    return f"slices/{batch_id}/plan.json"


def store_plan(storage: Storage, plan: BatchPlan) -> None:
    """Keep the plan beside the slices to come."""
    store_json(storage, plan_key(plan.batch_id), plan)


def load_plan(storage: Storage, batch_id: str) -> BatchPlan:
    """Return the stored plan of a batch."""
    with storage.open(plan_key(batch_id)) as file:
        return BatchPlan.model_validate_json(file.read())


def store_json(storage: Storage, key: str, value: BaseModel) -> None:
    """Store ``value`` as JSON, whole or not at all."""
    with storage.create(key) as file:
        file.write(value.model_dump_json().encode())
        file.commit()
