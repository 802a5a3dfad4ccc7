"""Whose document is it? The answer has to be the server's."""

from typing import Any

import bson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export_pipeline.mongo.bson_stream import documents, view
from export_pipeline.slices import ownership as ownership_module
from export_pipeline.slices.ownership import Ownership, values_at
from export_pipeline_tests.slices.batches import DOCUMENTS, PATHS, UIDS, Client, fill

DATABASE = "test_ownership"


def selected(raw: bytes, path: str, uids: list[str]) -> bool:
    return any(isinstance(value, str) and value in uids for value in values_at(view(raw), path.split(".")))


def check_against_the_server(client: Client, stored: list[dict[str, Any]], path: str, uids: list[str]) -> None:
    fill(client, DATABASE, "c", stored)
    collection: Any = client[DATABASE]["c"]
    everything = [document for batch in collection.find_raw_batches() for document in documents(batch)]
    ours = [bson.decode(raw)["_id"] for raw in everything if selected(raw, path, uids)]
    assert ours == [document["_id"] for document in collection.find({path: {"$in": uids}}, {"_id": 1})]


@settings(max_examples=50)
@given(DOCUMENTS, st.sampled_from(PATHS), st.lists(st.sampled_from(UIDS), min_size=1, max_size=2))
@example([{"_id": 1, "uid": [["a"]]}, {"_id": 2, "uid": ["a", ["b"]]}, {"_id": 3, "uid": {"uid": "a"}}], "uid", ["a"])
@example([{"_id": 1, "to": [[{"uid": "a"}]]}, {"_id": 2, "to": [{"uid": ["a"]}, 7]}], "to.uid", ["a"])
@example([{"_id": 1, "to.uid": "a"}, {"_id": 2, "to": {"uid": [{"uid": "a"}]}}], "to.uid", ["a"])
@example([{"_id": 1, "to": [{"to": [{"uid": ["a"]}]}]}, {"_id": 2, "to": {"to": [[{"uid": "a"}]]}}], "to.to.uid", ["a"])
def test_values_at_selects_what_the_server_finds(
    mongo_client: Client, stored: list[dict[str, Any]], path: str, uids: list[str]
) -> None:
    check_against_the_server(mongo_client, stored, path, uids)


@pytest.mark.parametrize("path", ["_id", "_id.uid"])
def test_values_at_selects_what_the_server_finds_by_id(mongo_client: Client, path: str) -> None:
    ids = ["a", "A", "b", 1, None, {"uid": "a"}, {"uid": "b"}, {"uid": ["a", "b"]}, {"to": {"uid": "a"}}, {"_id": "a"}]
    check_against_the_server(mongo_client, [{"_id": id_} for id_ in ids], path, ["a"])


# Which request


def test_a_document_of_several_uids_belongs_to_several_requests() -> None:
    ownership = Ownership({"r1": ["a"], "r2": ["a", "b"], "r3": ["c"]})
    assert ownership.owners(["a"], 0) == {"r1", "r2"}
    assert ownership.owners(["b", "c", "x", 7, None, ["a"]], 0) == {"r2", "r3"}
    assert ownership.owners(["x"], 0) == set()


def test_one_request_with_few_uids_owns_all_that_is_found() -> None:
    assert Ownership({"r1": ["a", "b"]}).only_owner == "r1"
    assert Ownership({"r1": ["a"], "r2": ["a"]}).only_owner is None


def test_many_uids_are_cut_into_several_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership_module, "UIDS_PER_QUERY", 2)
    ownership = Ownership({"r1": ["a", "b", "c"], "r2": ["c", "d", "e"]})
    assert ownership.queries == [["a", "b"], ["c", "d"], ["e"]]
    assert Ownership({"r1": ["a", "b", "c"]}).only_owner is None, "a document may be found by both queries"


@given(
    st.dictionaries(st.sampled_from(["r1", "r2", "r3"]), st.lists(st.sampled_from(UIDS), unique=True), min_size=1),
    st.lists(st.sampled_from([*UIDS, "x"])),
    st.integers(1, 4),
)
def test_a_document_is_given_to_its_owners_by_exactly_one_of_the_queries_that_find_it(
    uids_by_request: dict[str, list[str]], values: list[str], uids_per_query: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership_module, "UIDS_PER_QUERY", uids_per_query)
        ownership = Ownership(uids_by_request)
    finding = [number for number, uids in enumerate(ownership.queries) if set(uids) & set(values)]
    given_to = [owners for number in finding if (owners := ownership.owners(values, number))]
    expected = {request_id for request_id, uids in uids_by_request.items() if set(uids) & set(values)}
    assert given_to == ([expected] if expected else [])
