"""Batches to plan and to read, and the awkward documents that they find."""

from collections.abc import Mapping, Sequence
from typing import Any

import bson
from hypothesis import strategies as st
from pymongo import MongoClient

from export_pipeline.catalog.load import load_catalog
from export_pipeline.catalog.model import Entry
from export_pipeline.catalog.narrowing import EVERYTHING
from export_pipeline.mongo.bson_stream import documents
from export_pipeline.settings import Settings
from export_pipeline.slices.batch_slices import BatchSlices
from export_pipeline.slices.plan import BatchPlan, PlannedCollection, Wanted, make_plan
from export_pipeline.slices.slice_file import SliceIndex
from export_pipeline.storage import Storage

APP = "app"
BATCH = "batch-1"

Client = MongoClient[dict[str, Any]]
Requests = Mapping[str, Sequence[str]]
"""Uids by request id."""


def entry(name: str = "events", user_key: str = "uid", exclude: Sequence[str] = ()) -> Entry:
    """An entry whose collection is called ``<name>_app`` for the app of these tests."""
    return Entry(name=name, plugin="p", collection=f"{name}_{{app_id}}", user_key=user_key, exclude=tuple(exclude))


def planned(client: Client, settings: Settings, requests: Requests, *entries: Entry) -> BatchPlan:
    """Plan a batch of requests that name uids, where nothing is known about who the people are."""
    catalog = load_catalog().model_copy(update={"entries": entries, "identity": None})
    wanted = [Wanted(request_id, uids, None, len(uids)) for request_id, uids in requests.items()]
    plan, unplanned = make_plan(client, settings, catalog, BATCH, APP, EVERYTHING, wanted)
    assert not unplanned
    return plan


def collection(plan: BatchPlan, name: str) -> PlannedCollection:
    found = plan.collection(name)
    assert found is not None
    return found


def in_slice(storage: Storage, index: SliceIndex, request_id: str) -> list[bytes]:
    """One request's documents, sorted."""
    with BatchSlices(storage, BATCH) as slices, slices.open(index, request_id) as pieces:
        return sorted(document for piece in pieces for document in documents(piece.data))


def found(client: Client, database: str, collection: str, selector: dict[str, Any]) -> list[bytes]:
    """What a plain find returns, sorted."""
    batches: Any = client[database][collection].find_raw_batches(selector)
    return sorted(document for batch in batches for document in documents(batch))


# What the user key's path may lead to, and what it may not.

UIDS = ("a", "b", "c", "d")
PATHS = ("uid", "to.uid", "to.to.uid")

_LEAVES = st.sampled_from([*UIDS, "A", "a ", "", None, 1, True, 0.5, b"a", bson.Int64(7), bson.Regex("a")])
_KEYS = st.sampled_from(["uid", "to", "to", "other", "to.uid", "0", ""])
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=2), max_leaves=6
)
DOCUMENTS = st.lists(st.dictionaries(_KEYS, _VALUES, max_size=3), max_size=15).map(
    lambda documents: [{"_id": number, **document} for number, document in enumerate(documents)]
)
REQUESTS = st.dictionaries(
    st.sampled_from(["r1", "r2", "r3"]), st.lists(st.sampled_from(UIDS), min_size=1, unique=True), min_size=1
)


def fill(client: Client, database: str, collection: str, documents: Sequence[dict[str, Any]]) -> None:
    """Make the collection hold these documents and no others."""
    client[database].drop_collection(collection)
    client[database].create_collection(collection)
    if documents:
        client[database][collection].insert_many(documents)
