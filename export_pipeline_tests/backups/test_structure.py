import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Int64
from pymongo import MongoClient
from pymongo.database import Database

from export_pipeline.backups.structure import Structure, as_stored, read_structures

Mongo = MongoClient[dict[str, Any]]


@pytest.fixture
def database(mongo_client: Mongo) -> Iterator[Database[dict[str, Any]]]:
    mongo_client.drop_database("structures")
    yield mongo_client["structures"]
    mongo_client.drop_database("structures")


def structure_of(database: Database[dict[str, Any]], name: str) -> Structure:
    return read_structures(database.client, database.name, [name])[name]


def test_every_kind_of_collection_is_told(database: Database[dict[str, Any]]) -> None:
    database.create_collection("plain", validator={"$jsonSchema": {"required": ["uid"]}}, validationLevel="moderate")
    database.create_collection("ring", capped=True, size=4096, max=10)
    database.create_collection("weather", timeseries={"timeField": "t", "metaField": "m"}, expireAfterSeconds=86_400)
    database.create_collection(
        "shown", viewOn="plain", pipeline=[{"$match": {"since": datetime(2026, 1, 1, tzinfo=UTC)}}]
    )
    database.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True})
    found = read_structures(database.client, database.name)
    assert {name: structure.kind for name, structure in found.items()} == {
        "plain": "collection",
        "ring": "capped",
        "weather": "timeseries",
        "shown": "view",
        "clustered": "collection",
    }
    assert found["plain"].options["validator"] == {"$jsonSchema": {"required": ["uid"]}}
    assert found["ring"].options["max"] == {"$numberInt": "10"}
    assert found["weather"].options["timeseries"]["metaField"] == "m"
    assert found["shown"].options["pipeline"][0]["$match"]["since"] == {"$date": {"$numberLong": "1767225600000"}}
    assert found["shown"].indexes == ()


def test_what_is_told_makes_the_same_collection_anew(database: Database[dict[str, Any]]) -> None:
    database.create_collection("first", collation={"locale": "de", "strength": 2}, validator={"n": {"$gt": Int64(5)}})
    database["first"].create_index([("b", 1), ("a", -1)], unique=True, partialFilterExpression={"n": {"$gt": 1.5}})
    database["first"].create_index("at", expireAfterSeconds=60)
    told = structure_of(database, "first")
    database.command({"create": "second", **as_stored(told.options)})
    rest = [as_stored(index) for index in told.indexes if index["name"] != "_id_"]
    database.command({"createIndexes": "second", "indexes": rest})
    again = structure_of(database, "second")
    assert again.fingerprint == told.fingerprint
    assert list(again.indexes[1]["key"]) == ["b", "a"]


def test_the_order_of_indexes_and_the_type_of_their_numbers_make_no_difference(
    database: Database[dict[str, Any]],
) -> None:
    different: dict[str, list[tuple[str, Any]]] = {"one": [("a", 1), ("b", 1)], "two": [("b", Int64(1)), ("a", 1.0)]}
    for name, keys in different.items():
        indexes = [{"name": f"by_{field}", "key": {field: direction}} for field, direction in keys]
        database.command({"createIndexes": name, "indexes": indexes})
    assert structure_of(database, "one").fingerprint == structure_of(database, "two").fingerprint


@pytest.mark.parametrize(
    ("other_index", "other_options"),
    [
        ({"keys": [("b", 1), ("a", 1)]}, {}),
        ({"keys": [("a", 1), ("b", -1)]}, {}),
        ({"keys": [("a", 1), ("b", 1)], "unique": True}, {}),
        ({"keys": [("a", 1), ("b", 1)]}, {"validator": {"n": 1}}),
        ({"keys": [("a", 1), ("b", 1)]}, {"collation": {"locale": "de"}}),
    ],
)
def test_what_answers_differently_has_another_fingerprint(
    database: Database[dict[str, Any]], other_index: dict[str, Any], other_options: dict[str, Any]
) -> None:
    database["one"].create_index([("a", 1), ("b", 1)], name="i")
    database.create_collection("two", **other_options)
    database["two"].create_index(**other_index, name="i")
    assert structure_of(database, "one").fingerprint != structure_of(database, "two").fingerprint


def test_a_structure_survives_json(database: Database[dict[str, Any]]) -> None:
    database["one"].create_index(
        [("z", 1), ("a", 1)], partialFilterExpression={"at": {"$gt": datetime(2026, 1, 1, tzinfo=UTC)}}
    )
    told = structure_of(database, "one")
    again = Structure.model_validate_json(told.model_dump_json())
    assert again == told
    assert list(again.indexes[1]["key"]) == ["z", "a"]
    assert json.loads(json.dumps(told.metadata))["type"] == "collection"


def test_a_collection_that_is_not_there_is_not_told(database: Database[dict[str, Any]]) -> None:
    assert read_structures(database.client, database.name, ["nowhere"]) == {}
