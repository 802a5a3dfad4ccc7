"""No document is lost or doubled by its range, whatever its _id is and whatever bounds the ranges."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.errors import BulkWriteError

from export_pipeline.backups.ranges import IdRange, Size, documents_per_range, ranges_between, size_of
from export_pipeline.backups.reading import CollectionReader
from export_pipeline.mongo.bson_stream import ANYTHING, documents
from export_pipeline.mongo.snapshot import CollectionId, choose_moment

Mongo = MongoClient[dict[str, Any]]
LIMIT = timedelta(minutes=1)

SCALARS = (
    st.sampled_from([MinKey(), MaxKey(), None, True, False, float("nan"), float("inf"), -float("inf"), 0.0, ""])
    | st.integers(-3, 3)
    | st.integers(-(2**63), 2**63 - 1).map(Int64)
    | st.floats(-3, 3, width=16)
    | st.decimals(-3, 3, places=1).map(lambda value: Decimal128(str(value)))
    | st.sampled_from(["NaN", "Infinity", "-Infinity", "0E+3"]).map(Decimal128)
    | st.text("aäb", max_size=3)
    | st.binary(max_size=2).map(lambda raw: Binary(raw, 128))
    | st.integers(0, 2**96 - 1).map(lambda number: ObjectId(f"{number:024x}"))
    | st.integers(-3, 3).map(lambda days: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days))
    | st.integers(0, 5).map(lambda seconds: Timestamp(seconds, 1))
    | st.text("ab", max_size=2).map(Code)
)
IDS = SCALARS | st.dictionaries(st.sampled_from(["a", "b"]), SCALARS, max_size=2)


@pytest.fixture
def source(mongo_client: Mongo) -> Iterator[CollectionId]:
    collection = mongo_client["ranges"]["mixed"]
    collection.drop()
    collection.insert_one({"_id": 0})
    yield identity(mongo_client, "mixed")
    mongo_client.drop_database("ranges")


def identity(client: Mongo, name: str) -> CollectionId:
    return choose_moment(client, [("ranges", name)]).collections["ranges", name]


def ids_in(client: Mongo, source: CollectionId, of: IdRange) -> list[bytes]:
    moment = choose_moment(client, [("ranges", source.name)])
    reader = CollectionReader(client, moment.cluster_time, LIMIT)
    return [document for batch in reader.range_batches(source, of, {}) for document in documents(batch)]


def stored(client: Mongo, name: str) -> list[bytes]:
    """All documents, in the order of the index."""
    collection: Any = client["ranges"].get_collection(name, ANYTHING)
    return [document.raw for document in collection.find(hint={"_id": 1}, sort={"_id": 1})]


def insert_what_fits(client: Mongo, name: str, ids: list[Any]) -> None:
    with suppress(BulkWriteError):  # equal ids of two types, such as 1 and 1.0
        client["ranges"][name].insert_many([{"_id": each} for each in ids or [0]], ordered=False)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(IDS, max_size=25), gone=st.sets(st.integers(0, 24)), chosen=st.sets(st.integers(0, 24)))
def test_ranges_hold_each_document_once_and_in_order(
    mongo_client: Mongo, source: CollectionId, ids: list[Any], gone: set[int], chosen: set[int]
) -> None:
    mongo_client["ranges"]["mixed"].delete_many({})
    insert_what_fits(mongo_client, "mixed", ids)
    all_ids = stored(mongo_client, "mixed")
    for position in gone & set(range(len(all_ids))):  # a boundary may be an id that is not there any more
        mongo_client["ranges"]["mixed"].delete_one({"_id": RawBSONDocument(all_ids[position], ANYTHING)["_id"]})
    boundaries = [each for position, each in enumerate(all_ids) if position in chosen]
    found = [ids_in(mongo_client, source, of) for of in ranges_between(boundaries)]
    assert [document for each in found for document in each] == stored(mongo_client, "mixed")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(IDS, min_size=1, max_size=25), step=st.integers(1, 9))
def test_a_walk_finds_boundaries_of_equal_ranges_and_counts_the_rest(
    mongo_client: Mongo, source: CollectionId, ids: list[Any], step: int
) -> None:
    mongo_client["ranges"]["mixed"].delete_many({})
    insert_what_fits(mongo_client, "mixed", ids)
    moment = choose_moment(mongo_client, [("ranges", "mixed")])
    reader = CollectionReader(mongo_client, moment.cluster_time, LIMIT)
    boundaries = list(reader.boundaries(source, step))
    documents_there = stored(mongo_client, "mixed")
    assert boundaries == [each for each in documents_there[step::step] if each[4] != 0x7F]
    last = list(ranges_between(boundaries))[-1]
    assert reader.count_range(source, last) == len(documents_there) - step * len(boundaries)


@pytest.mark.parametrize("options", [{"collation": {"locale": "en", "strength": 1}}, {"clusteredIndex": True}, {}])
def test_ranges_go_by_the_collections_own_order(mongo_client: Mongo, options: dict[str, Any]) -> None:
    if "clusteredIndex" in options:
        options = {"clusteredIndex": {"key": {"_id": 1}, "unique": True}}
    mongo_client["ranges"].drop_collection("own")
    mongo_client["ranges"].create_collection("own", **options)
    ids = ["ä", "b", "Z", "y", MaxKey(), MinKey(), 5, Decimal128("7.5"), None]
    mongo_client["ranges"]["own"].insert_many([{"_id": each} for each in ids])
    own = identity(mongo_client, "own")
    everything = stored(mongo_client, "own")
    for of in ranges_between([]), ranges_between(everything[2:-1]), ranges_between(everything):
        assert [each for one in of for each in ids_in(mongo_client, own, one)] == everything


def test_ranges_are_about_as_large_as_was_asked(mongo_client: Mongo) -> None:
    mongo_client["ranges"].drop_collection("large")
    mongo_client["ranges"]["large"].insert_many([{"_id": ObjectId(), "text": "x" * 1000} for _ in range(20_000)])
    size = size_of(mongo_client, "ranges", "large")
    assert size.documents == 20_000
    step = documents_per_range(size, 2_000_000)
    assert step is not None
    large = identity(mongo_client, "large")
    boundaries = CollectionReader(mongo_client, None, LIMIT).boundaries(large, step)
    sizes = [sum(map(len, ids_in(mongo_client, large, of))) for of in ranges_between(boundaries)]
    assert sum(sizes) == size.bytes
    assert len(sizes) == 11
    assert max(sizes) <= 2_000_000


def test_the_least_and_the_greatest_key_bound_nothing() -> None:
    keys = [bson.encode({"_id": key}) for key in (MinKey(), 1, MaxKey())]
    assert list(ranges_between(keys)) == [IdRange(None, keys[1]), IdRange(keys[1], None)]


def test_a_view_has_no_size(mongo_client: Mongo) -> None:
    mongo_client["ranges"].drop_collection("shown")
    mongo_client["ranges"].create_collection("shown", viewOn="nothing")
    assert size_of(mongo_client, "ranges", "shown") == Size(0, 0)
