"""A collection, read once for a whole batch, gives each request what a find of its own would have given."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pymongo import MongoClient

from export_pipeline.catalog.model import Entry
from export_pipeline.errors import StaleRequestError, StorageError
from export_pipeline.mongo import pressure
from export_pipeline.mongo.connection import connect
from export_pipeline.mongo.pressure import SourceUnderPressureError
from export_pipeline.settings import Settings
from export_pipeline.slices import ownership as ownership_module
from export_pipeline.slices import slice_file
from export_pipeline.slices.plan import BatchPlan
from export_pipeline.slices.read import read_slice
from export_pipeline.slices.slice_file import SliceIndex, data_key, load_index
from export_pipeline.storage import DirectoryStorage, Storage
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.mongo.faults import Sent, failing
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
    found,
    in_slice,
    planned,
)

DATABASE = "test_read"
EVENTS = entry("events")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return DirectoryStorage(tmp_path / "storage")


@pytest.fixture(scope="module")
def client(mongo_uri: str) -> Iterator[Client]:
    """A client as the exporter has it."""
    with connect(mongo_uri) as client:
        yield client


class Reading:
    """A batch that is being read; counts what it is told of."""

    def __init__(self, client: Client, at: Settings, storage: Storage, plan: BatchPlan) -> None:
        self.client, self.at, self.storage, self.plan = client, at, storage, plan
        self.told: list[int] = []

    def __call__(self, of: Entry = EVENTS) -> SliceIndex:
        return read_slice(self.client, self.at, self.storage, self.plan, of, self.told.append)

    def owned(self, index: SliceIndex, request_id: str) -> list[Any]:
        """The ids of a request's documents, sorted."""
        return sorted(bson.decode(document)["_id"] for document in in_slice(self.storage, index, request_id))


# Whose documents


@examples(max_examples=50)
@given(DOCUMENTS, st.sampled_from(PATHS), REQUESTS, st.sampled_from([1, 2, 100]), st.sampled_from([1, 200, 1 << 20]))
def test_each_request_gets_exactly_what_a_find_of_its_own_returns(
    mongo_client: Client,
    tmp_path_factory: pytest.TempPathFactory,
    stored: list[dict[str, Any]],
    path: str,
    requests: Requests,
    uids_per_query: int,
    gather_bytes: int,
) -> None:
    fill(mongo_client, DATABASE, "events_app", stored)
    storage, at, events = (
        DirectoryStorage(tmp_path_factory.mktemp("s")),
        Settings(mongo_database=DATABASE),
        entry("events", path),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership_module, "UIDS_PER_QUERY", uids_per_query)
        patch.setattr(slice_file, "GATHER_BYTES", gather_bytes)
        plan = planned(mongo_client, at, requests, events)
        index = read_slice(mongo_client, at, storage, plan, events)
    everyone = sorted({uid for uids in requests.values() for uid in uids})
    assert index.documents == len(found(mongo_client, DATABASE, "events_app", {path: {"$in": everyone}}))
    assert index.outcome == ("exported" if index.documents else "empty")
    for request_id, uids in requests.items():
        own = found(mongo_client, DATABASE, "events_app", {path: {"$in": list(uids)}})
        assert in_slice(storage, index, request_id) == own
        assert plan.expected_of(request_id) == len(own)


def test_a_shared_document_goes_to_each_of_its_owners_and_counts_once(
    client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"_id": 1, "uid": ["a", "b"]}, {"_id": 2, "uid": "b"}, {"_id": 3, "uid": "c"}]})
    reading = Reading(client, at, storage, planned(client, at, {"r1": ["a"], "r2": ["b"], "r3": ["z"]}, EVENTS))
    index = reading()
    assert index.documents == 2
    assert [reading.owned(index, request_id) for request_id in ("r1", "r2", "r3")] == [[1], [1, 2], []]
    assert reading.told == [2]


def test_more_uids_than_fit_into_one_query_find_each_document_once(
    client: Client, make_database: MakeDatabase, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership_module, "UIDS_PER_QUERY", 2)
    uids = [f"u{number}" for number in range(7)]
    at = make_database(
        {"events_app": [{"_id": 1, "uid": uids}, {"_id": 2, "uid": ["u0", "u6"]}, {"_id": 3, "uid": "u5"}]}
    )
    reading = Reading(client, at, storage, planned(client, at, {"r1": uids}, EVENTS))
    index = reading()
    assert reading.owned(index, "r1") == [1, 2, 3]
    assert index.documents == sum(reading.told) == reading.plan.expected_of("r1") == 3


def test_many_documents_of_several_users_are_put_down_bit_by_bit(
    client: Client, make_database: MakeDatabase, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slice_file, "GATHER_BYTES", 500)
    at = make_database({"events_app": [{"_id": number, "uid": f"u{number % 3}"} for number in range(1000)]})
    reading = Reading(client, at, storage, planned(client, at, {f"r{n}": [f"u{n}"] for n in range(3)}, EVENTS))
    index = reading()
    assert [reading.owned(index, f"r{n}") for n in range(3)] == [list(range(n, 1000, 3)) for n in range(3)]
    assert len(index.owned["r0"].ranges) > 10


def test_the_collection_is_asked_once_for_the_whole_batch(
    mongo_uri: str, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"uid": f"u{number}"} for number in range(50)]})
    sent = Sent()
    with MongoClient[dict[str, Any]](mongo_uri, event_listeners=[sent]) as watched:
        plan = planned(watched, at, {f"r{number}": [f"u{number}"] for number in range(50)}, EVENTS)
        sent.reads.clear()
        read_slice(watched, at, storage, plan, EVENTS)
    assert [command["find"] for command in sent.reads] == ["events_app"]


def test_documents_that_python_cannot_hold_do_not_stop_their_neighbours(
    client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    odd = [
        {"_id": 1, "uid": "a", "at": bson.datetime_ms.DatetimeMS(2**60)},
        bson.raw_bson.RawBSONDocument(bson.encode({"_id": 2, "uid": "b", "text": "QQ"}).replace(b"QQ", b"Q\xff")),
        bson.raw_bson.RawBSONDocument(bson.encode({"_id": 3, "uid": ["a", "QQ"]}).replace(b"QQ", b"Q\xff")),
    ]
    at = make_database({"events_app": odd})
    reading = Reading(client, at, storage, planned(client, at, {"r1": ["a"], "r2": ["b"]}, EVENTS))
    index = reading()
    assert (index.owned["r1"].documents, index.owned["r2"].documents) == (2, 1)
    assert (reading.plan.expected_of("r1"), reading.plan.expected_of("r2")) == (2, 1)


def test_fields_that_are_excluded_never_reach_the_slice(
    client: Client, make_database: MakeDatabase, storage: Storage, tmp_path: Path
) -> None:
    document = {"_id": 1, "uid": "a", "token": "s3cr3t", "to": [{"key": "s3cr3t", "name": "x"}, {"key": "s3cr3t"}]}
    at = make_database({"events_app": [document]})
    events = entry("events", exclude=["token", "to.key"])
    reading = Reading(client, at, storage, planned(client, at, {"r1": ["a"]}, events))
    [stored] = in_slice(storage, reading(events), "r1")
    assert bson.decode(stored) == {"_id": 1, "uid": "a", "to": [{"name": "x"}, {}]}
    written = [file.read_bytes() for file in (tmp_path / "storage").rglob("*") if file.is_file()]
    assert len(written) == 2
    assert not any(b"s3cr3t" in content for content in written)


# What there is nothing of


def test_a_collection_that_is_absent_and_one_that_holds_nothing_are_told_apart(
    client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"uid": "b"}]})
    gone = entry("gone")
    reading = Reading(client, at, storage, planned(client, at, {"r1": ["a"]}, EVENTS, gone))
    assert reading() == SliceIndex(name="events", outcome="empty")
    assert reading(gone) == SliceIndex(name="gone", outcome="absent")
    assert reading.told == []


# A run that is tried again


def test_a_finished_slice_is_taken_up_without_reading_again(
    client: Client, mongo_client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"_id": 1, "uid": "a"}]})
    reading = Reading(client, at, storage, planned(client, at, {"r1": ["a"]}, EVENTS))
    first = reading()
    reading.told.clear()
    mongo_client[at.mongo_database].drop_collection("events_app")
    assert reading() == first
    assert reading.told == []
    assert reading.owned(first, "r1") == [1]


def test_a_slice_that_failed_is_read_again(
    client: Client, mongo_client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"_id": 1, "uid": "a"}]})
    reading = Reading(client, at, storage, planned(client, at, {"r1": ["a"]}, EVENTS))
    with failing(mongo_client, "find", errorCode=8, namespace=f"{at.mongo_database}.events_app"):
        assert reading().outcome == "failed"
    assert reading().outcome == "exported"
    assert load_index(storage, BATCH, "events") == reading()


# A source that works hard


@pytest.fixture
def quick_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(pressure, "FIRST_NAP", 0.01)
    monkeypatch.setattr(pressure, "LONGEST_NAP", 0.05)


HARD_WORK = {"max_cache_used": 1e-9}
"""Settings under which any server works too hard."""


@pytest.mark.usefixtures("quick_naps")
def test_a_read_that_pauses_gives_the_same_documents_in_the_end(
    client: Client, make_database: MakeDatabase, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = make_database({"events_app": [{"_id": number, "uid": "ab"[number % 2]} for number in range(500)]})
    plan = planned(client, at, {"r1": ["a"], "r2": ["b"]}, EVENTS)
    reading = Reading(client, at, storage, plan)
    undisturbed = reading()
    told = [*reading.told]
    paused = Reading(client, at.model_copy(update=HARD_WORK), DirectoryStorage(tmp_path / "paused"), plan)
    look, looks = pressure.SourceHealth.look, iter(range(1000))

    def hard_now_and_then(health: pressure.SourceHealth, client: Client) -> pressure.Measured:
        return look(health, client) if next(looks) % 3 else pressure.Measured()

    monkeypatch.setattr(pressure.SourceHealth, "look", hard_now_and_then)
    assert paused() == undisturbed
    assert [documents for documents in paused.told if documents] == told
    assert paused.told.count(0) >= 2 * (len(told) - 1), "it did not pause between the batches"
    for request_id in plan.people:
        assert in_slice(paused.storage, undisturbed, request_id) == in_slice(storage, undisturbed, request_id)


@pytest.mark.usefixtures("quick_naps")
def test_a_source_under_pressure_for_too_long_concerns_all_requests(
    client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"uid": "a"}]})
    plan = planned(client, at, {"r1": ["a"]}, EVENTS)
    hard = at.model_copy(update={**HARD_WORK, "max_pause": timedelta(seconds=0.1)})
    reading = Reading(client, hard, storage, plan)
    with pytest.raises(SourceUnderPressureError, match="EXPORT_PIPELINE_MAX_CACHE_USED"):
        reading()
    assert set(reading.told) == {0}
    assert load_index(storage, BATCH, "events") is None
    assert not storage.exists(data_key(BATCH, "events"))
    with pytest.raises(SourceUnderPressureError):
        planned(client, hard, {"r1": ["a"]}, EVENTS)


@pytest.mark.usefixtures("quick_naps")
def test_a_request_that_is_cancelled_during_a_pause_ends(
    client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"uid": "a"}]})
    plan = planned(client, at, {"r1": ["a"]}, EVENTS)

    def cancelled(_: int) -> None:
        raise StaleRequestError("it was cancelled")

    with pytest.raises(StaleRequestError):
        read_slice(client, at.model_copy(update=HARD_WORK), storage, plan, EVENTS, cancelled)
    assert load_index(storage, BATCH, "events") is None


# What fails


def test_a_collection_that_cannot_be_read_fails_with_its_reason_and_alone(
    client: Client, mongo_client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"uid": "secret-uid"}], "secret_app": [{"uid": "secret-uid"}]})
    secret = entry("secret")
    reading = Reading(client, at, storage, planned(client, at, {"r1": ["secret-uid"]}, EVENTS, secret))
    with failing(mongo_client, "find", errorCode=13, namespace=f"{at.mongo_database}.secret_app"):
        failed, neighbour = reading(secret), reading(EVENTS)
    assert (failed.outcome, failed.documents, failed.owned) == ("failed", 0, {})
    assert failed.failure is not None
    assert failed.failure.code == "not_authorized"
    assert failed.failure.message.startswith("secret_app: not authorized")
    assert "secret-uid" not in failed.model_dump_json()
    assert not storage.exists(data_key(BATCH, "secret"))
    assert neighbour.outcome == "exported"


def test_a_failure_in_the_middle_leaves_no_half_slice(
    client: Client, mongo_client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"uid": "a"} for _ in range(500)]})
    reading = Reading(client, at, storage, planned(client, at, {"r1": ["a"]}, EVENTS))
    with failing(mongo_client, "getMore", errorCode=8, namespace=f"{at.mongo_database}.events_app"):
        index = reading()
    assert sum(reading.told) > 0
    assert (index.outcome, index.documents, index.owned) == ("failed", 0, {})
    assert not storage.exists(data_key(BATCH, "events"))


def test_a_collection_that_could_not_be_counted_is_not_read(
    client: Client, mongo_client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"uid": "a"}]})
    with failing(mongo_client, "aggregate", errorCode=8, namespace=f"{at.mongo_database}.events_app"):
        plan = planned(client, at, {"r1": ["a"]}, EVENTS)
    index = Reading(client, at, storage, plan)()
    assert index.outcome == "failed"
    assert index.failure == collection(plan, "events").failure


def test_a_collection_that_was_dropped_after_the_plan_is_not_empty(
    client: Client, mongo_client: Client, make_database: MakeDatabase, storage: Storage
) -> None:
    at = make_database({"events_app": [{"uid": "a"}]})
    plan = planned(client, at, {"r1": ["a"]}, EVENTS)
    mongo_client[at.mongo_database].drop_collection("events_app")
    index = Reading(client, at, storage, plan)()
    assert index.outcome == "failed"
    assert index.failure is not None
    assert "was dropped" in index.failure.message


def test_a_storage_that_fails_is_not_the_collections_fault(
    client: Client, make_database: MakeDatabase, tmp_path: Path
) -> None:
    at = make_database({"events_app": [{"uid": "a"}]})
    (tmp_path / "file").touch()
    reading = Reading(client, at, DirectoryStorage(tmp_path / "file"), planned(client, at, {"r1": ["a"]}, EVENTS))
    with pytest.raises(StorageError, match="not a directory"):
        reading()
