"""Before anything is read: how much an export would hold, and whether an index serves each query."""

from typing import Any

from pymongo import MongoClient

from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.errors import ExportPipelineError
from export_pipeline.mongo.connection import Document, Right, driver_errors
from export_pipeline.mongo.snapshot import BYTE_FOR_BYTE, CollectionId
from export_pipeline.settings import Settings
from export_pipeline.slices.plan import BatchPlan
from export_pipeline.slices.queries import SliceQueries
from export_pipeline.slices.stored import Stored


class EstimatedCollection(Stored):
    """What one collection would give. ``bytes`` is the documents times the collection's average size."""

    name: str
    collection: str
    outcome: str
    """``present``, ``absent`` or ``failed``."""
    documents: int = 0
    bytes: int = 0
    full_scan: bool = False
    note: str | None = None
    """What to do about a full scan, or why the collection could not be looked at."""


class Estimate(Stored):
    """What an export would hold, and of how many people."""

    people: int
    collections: tuple[EstimatedCollection, ...]
    documents: int
    bytes: int
    warnings: tuple[str, ...]


def estimate(client: MongoClient[Document], settings: Settings, catalog: LoadedCatalog, plan: BatchPlan) -> Estimate:
    """Return the estimate for a plan, whose counts are exact at its moment."""
    collections = tuple(_estimate_one(client, settings, catalog, plan, planned.name) for planned in plan.collections)
    return Estimate(
        people=sum(len(request.person.requested_uids) for request in plan.requests),
        collections=collections,
        documents=sum(collection.documents for collection in collections),
        bytes=sum(collection.bytes for collection in collections),
        warnings=tuple(f"{collection.name}: {collection.note}" for collection in collections if collection.note),
    )


def _estimate_one(
    client: MongoClient[Document], settings: Settings, catalog: LoadedCatalog, plan: BatchPlan, name: str
) -> EstimatedCollection:
    entry, planned = catalog.entry(name), plan.collection(name)
    collection = entry.collection_of(plan.app_id)
    if planned is None or planned.source is None:
        return EstimatedCollection(name=name, collection=collection, outcome="absent")
    if planned.failure is not None:
        return EstimatedCollection(name=name, collection=collection, outcome="failed", note=planned.failure.message)
    documents = sum(planned.expected.values())
    limit_ms = int(settings.read_timeout.total_seconds() * 1000)
    queries = SliceQueries(entry, plan.narrowing, plan.app_id, plan.people)
    try:
        size = _average_size(client, planned.source, limit_ms)
        scans = any(_scans(client, planned.source, query.selector, limit_ms) for query in queries.queries[:1])
        note = _advice(client, planned.source, entry) if scans else None
    except ExportPipelineError as error:
        return EstimatedCollection(
            name=name, collection=collection, outcome="present", documents=documents, note=str(error)
        )
    return EstimatedCollection(
        name=name,
        collection=collection,
        outcome="present",
        documents=documents,
        bytes=documents * size,
        full_scan=scans,
        note=note,
    )


def _average_size(client: MongoClient[Document], source: CollectionId, limit_ms: int) -> int:
    """Return the average bytes of a document, from the server's own statistics; 0 for a view, which has none."""
    if source.uuid is None:
        return 0
    with driver_errors(source.name, Right("collStats", source.database, source.name)):
        pipeline: list[Document] = [{"$collStats": {"storageStats": {}}}]
        stats = client[source.database][source.name].aggregate(pipeline, maxTimeMS=limit_ms)
        return int(sum(shard["storageStats"].get("avgObjSize", 0) for shard in stats))


def _scans(client: MongoClient[Document], source: CollectionId, selector: Document, limit_ms: int) -> bool:
    """Tell whether the server would read the whole collection for this query, from its own plan."""
    # Read as the slice is: an index of the collection's own collation serves no query that compares byte for byte.
    query = {"find": source.name, "filter": selector, "collation": BYTE_FOR_BYTE.document}
    with driver_errors(source.name, source.read_right):
        explained = client[source.database].command("explain", query, verbosity="queryPlanner", maxTimeMS=limit_ms)
    return "COLLSCAN" in set(_stages(explained.get("queryPlanner", explained)))


def _advice(client: MongoClient[Document], source: CollectionId, entry: Entry) -> str:
    if entry.hook is not None:
        return "every document is read; create an index on the fields that the hook selects by"
    with driver_errors(source.name, Right("listCollections", source.database)):
        has_collation = "collation" in client[source.database][source.name].options()
    # There it may have an index of these keys, and so of their usual name, that follows its own collation.
    options = ', {"name": "exports", "collation": {"locale": "simple"}}' if has_collation else ""
    return f'every document is read; create an index: db.{source.name}.createIndex({{"{entry.user_key}": 1}}{options})'


def _stages(plan: Any) -> list[str]:
    """Return the stages of a winning plan, as deep as they are nested (one plan per shard on a cluster)."""
    if isinstance(plan, dict):
        own = [plan["stage"]] if isinstance(plan.get("stage"), str) else []
        return own + [stage for key, part in plan.items() if key != "rejectedPlans" for stage in _stages(part)]
    if isinstance(plan, list):
        return [stage for part in plan for stage in _stages(part)]
    return []
