"""The plan of a batch: what exists, and how much of it is whose, at one moment."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export_pipeline.errors import MongoUnreachableError, PointInTimeError, UnknownAppError
from export_pipeline.mongo.connection import connect
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.settings import Settings
from export_pipeline.slices import ownership as ownership_module
from export_pipeline.slices.plan import load_plan, store_plan
from export_pipeline.storage import DirectoryStorage
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.mongo.faults import failing
from export_pipeline_tests.slices.batches import (
    BATCH,
    DOCUMENTS,
    PATHS,
    REQUESTS,
    Client,
    Requests,
    collection,
    entry,
    fill,
    planned,
)

DATABASE = "test_plan"


@settings(max_examples=50)
@given(DOCUMENTS, st.sampled_from(PATHS), REQUESTS, st.sampled_from([1, 2, 100]))
@example([{"_id": 1, "to": [{"uid": ["a"]}, {"uid": "b"}]}], "to.uid", {"r1": ["a"], "r2": ["b"]}, 100)
@example([{"_id": 1, "to": [[{"uid": "a"}], {"uid": "b"}]}], "to.uid", {"r1": ["a"], "r2": ["b"]}, 100)
def test_each_request_expects_what_a_find_of_its_own_counts(
    mongo_client: Client, stored: list[dict[str, Any]], path: str, requests: Requests, uids_per_query: int
) -> None:
    fill(mongo_client, DATABASE, "events_app", stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership_module, "UIDS_PER_QUERY", uids_per_query)
        plan = planned(mongo_client, Settings(mongo_database=DATABASE), requests, entry(user_key=path))
    for request_id, uids in requests.items():
        expected = mongo_client[DATABASE]["events_app"].count_documents({path: {"$in": list(uids)}})
        assert plan.expected_of(request_id) == expected


def test_collections_are_counted_each_and_absent_ones_are_said_to_be_absent(
    mongo_client: Client, make_database: MakeDatabase
) -> None:
    at = make_database({"events_app": [{"uid": "a"}, {"uid": "b"}, {"uid": ["a", "b"]}], "push_app": [{"_id": "a"}]})
    plan = planned(
        mongo_client, at, {"r1": ["a"], "r2": ["b", "c"]}, entry("events"), entry("push", "_id"), entry("gone")
    )
    assert collection(plan, "events").expected == {"r1": 2, "r2": 2}
    assert collection(plan, "push").expected == {"r1": 1}
    assert collection(plan, "gone").source is None
    assert (plan.expected_of("r1"), plan.expected_of("r2")) == (3, 2)
    assert plan.cluster_time is not None


def test_a_plan_is_the_same_after_it_was_stored(
    mongo_client: Client, make_database: MakeDatabase, tmp_path: Any
) -> None:
    at = make_database({"events_app": [{"uid": "a"}]})
    plan = planned(mongo_client, at, {"r1": ["a", "ключ"]}, entry("events"), entry("gone"))
    storage = DirectoryStorage(tmp_path)
    store_plan(storage, plan)
    assert load_plan(storage, BATCH) == plan


def test_a_plan_does_not_show_uids(mongo_client: Client, make_database: MakeDatabase) -> None:
    at = make_database({"events_app": [{"uid": "secret-uid"}]})
    assert "secret-uid" not in repr(planned(mongo_client, at, {"r1": ["secret-uid"]}, entry("events")))


def test_an_app_of_which_nothing_exists_is_unknown(mongo_client: Client, make_database: MakeDatabase) -> None:
    at = make_database({"events_other": [{"uid": "a"}]})
    with pytest.raises(UnknownAppError, match=r"for app app; check the app id, EXPORT_PIPELINE_MONGO_DATABASE"):
        planned(mongo_client, at, {"r1": ["a"]}, entry("events"))


def test_a_collection_that_cannot_be_counted_is_planned_with_its_failure(
    settings: Settings, mongo_client: Client, make_database: MakeDatabase
) -> None:
    at = make_database({"events_app": [{"uid": "a"}], "secret_app": [{"uid": "a"}]})
    refused = failing(mongo_client, "aggregate", errorCode=13, namespace=f"{at.mongo_database}.secret_app")
    with connect(settings.mongo_uri.get_secret_value()) as client, refused:
        plan = planned(client, at, {"r1": ["a"]}, entry("events"), entry("secret"))
    assert collection(plan, "events").expected == {"r1": 1}
    failure = collection(plan, "secret").failure
    assert failure is not None
    assert failure.code == "not_authorized"
    assert failure.message.startswith("secret_app: not authorized")


def test_a_server_that_goes_away_makes_the_whole_plan_impossible(
    settings: Settings, mongo_client: Client, make_database: MakeDatabase
) -> None:
    at = make_database({"events_app": [{"uid": "a"}]})
    with (
        connect(settings.mongo_uri.get_secret_value()) as client,
        failing(mongo_client, "aggregate", closeConnection=True),
        pytest.raises(MongoUnreachableError),
    ):
        planned(client, at, {"r1": ["a"]}, entry("events"))


def test_a_standalone_server_is_planned_without_a_time_only_where_that_is_allowed() -> None:
    with embedded_mongo(replica_set=False) as uri, connect(uri) as client:
        client["countly"]["events_app"].insert_one({"uid": "a"})
        with pytest.raises(PointInTimeError):
            planned(client, Settings(), {"r1": ["a"]}, entry("events"))
        plan = planned(client, Settings(require_point_in_time=False), {"r1": ["a"]}, entry("events"))
    assert plan.cluster_time is None
    assert plan.expected_of("r1") == 1
