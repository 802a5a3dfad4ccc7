"""PyMongo's own cursor is the model: the same batches, the same errors."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from export_pipeline.backups.raw_cursor import LeanRawBatchCursor, split_reply

Mongo = MongoClient[dict[str, Any]]


@pytest.fixture
def collection(mongo_client: Mongo) -> Iterator[Collection[dict[str, Any]]]:
    collection = mongo_client["cursors"]["any"]
    collection.insert_many([{"_id": number, "cursor": {"nextBatch": ["x" * (number % 90)]}} for number in range(3000)])
    yield collection
    mongo_client.drop_database("cursors")


@pytest.mark.parametrize("query", [{}, {"_id": {"$gt": 2500}}, {"_id": -1}])
def test_batches_are_pymongos_own(collection: Collection[dict[str, Any]], query: dict[str, Any]) -> None:
    options: dict[str, Any] = {"batch_size": 101, "sort": {"_id": 1}}
    theirs = list(collection.find_raw_batches(query, **options))
    assert list(LeanRawBatchCursor(collection, query, **options)) == theirs


def test_batches_are_no_more_lean_only_by_name(
    collection: Collection[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    split: list[Any] = []

    def note(payload: bytes) -> Any:
        split.append(split_reply(payload))
        return split[-1]

    monkeypatch.setattr("export_pipeline.backups.raw_cursor.split_reply", note)
    assert len(list(LeanRawBatchCursor(collection, {}, batch_size=1000))) == 3
    assert [found[1] for found in split if found] == ["firstBatch", "nextBatch", "nextBatch", "nextBatch"]


def test_it_reads_in_a_snapshot(collection: Collection[dict[str, Any]], mongo_client: Mongo) -> None:
    with mongo_client.start_session(snapshot=True) as session:
        before: list[Any] = list(LeanRawBatchCursor(collection, {}, session=session))
        collection.delete_many({})
        assert list(LeanRawBatchCursor(collection, {}, session=session)) == before


def test_errors_are_the_servers(collection: Collection[dict[str, Any]]) -> None:
    with pytest.raises(OperationFailure, match="unknown operator"):
        list(LeanRawBatchCursor(collection, {"_id": {"$never": 1}}))
