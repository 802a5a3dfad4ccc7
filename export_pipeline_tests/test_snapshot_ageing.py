"""Reads that break off: the server's history ages out, a connection goes, a right is missing, the server dies."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient
from sqlalchemy import update

from export_pipeline.catalog.narrowing import Narrowing
from export_pipeline.errors import ExportPipelineError, MongoUnreachableError
from export_pipeline.exporter import Exporter, Outcome
from export_pipeline.mongo.connection import NotAuthorizedError, SnapshotTooOldError
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.mongo.snapshot import ClusterTime, SnapshotReader
from export_pipeline.packages.assemble import CollectionUnreadableError
from export_pipeline.packages.manifest import Manifest
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.schema import export_requests
from export_pipeline.settings import Settings
from export_pipeline.slices.plan import BatchPlan
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.mongo.faults import fail_point, failing

Client = MongoClient[dict[str, Any]]

CATALOG = """
version: 1
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid}
- {name: views, plugin: views, collection: "views{app_id}", user_key: uid}
"""
MORE_THAN_A_FIRST_BATCH = 250  # the server's first batch holds 101 documents
STORED: dict[str, list[Any]] = {
    "app_usersx": [{"_id": n, "uid": uid, "moment": "old"} for n, uid in enumerate("ab")],
    "eventsx": [{"_id": n, "uid": "ab"[n % 2], "moment": "old"} for n in range(2 * MORE_THAN_A_FIRST_BATCH)],
    "viewsx": [{"_id": n, "uid": uid, "moment": "old"} for n, uid in enumerate("ab")],
}
TOO_OLD, UNAVAILABLE = 239, 246
UNAUTHORIZED, UNKNOWN = 13, 8


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    return tmp_path / "catalog.yaml"


@pytest.fixture
def installation(make_database: MakeDatabase, catalog: Path) -> Iterator[Exporter]:
    with Exporter(make_database(STORED).model_copy(update={"catalog": catalog})) as exporter:
        yield exporter


Break = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def breaking(mongo_client: Client, installation: Exporter) -> Break:
    """Return a function that lets commands on the events fail for as many times as it is told."""

    def broken(command: str, times: int, **how: Any) -> AbstractContextManager[None]:
        namespace = f"{installation.settings.mongo_database}.eventsx"
        data = {"failCommands": [command], "appName": "export_pipeline", "namespace": namespace, **how}
        return fail_point(mongo_client, "failCommand", mode={"times": times}, data=data)

    return broken


def claimed(exporter: Exporter, *uids: str) -> tuple[Batch, list[str]]:
    """A batch with a request for each uid."""
    ids = [exporter.submit(NewRequest("x", [uid])).id for uid in uids]
    batch = Batch(new_id(), tuple(ids))
    assert exporter.requests.claim(batch) == ids
    return batch, ids


def read_all(exporter: Exporter, plan: BatchPlan) -> dict[str, str]:
    return {entry.name: exporter.read_slice(plan, entry.name).outcome for entry in exporter.catalog.entries}


def move_on(client: Client, database: str) -> None:
    """Write, so that a read of now and one of before are told apart in every collection."""
    for name in STORED:
        client[database][name].update_many({}, {"$set": {"moment": "new"}})
        client[database][name].insert_many([{"uid": uid, "moment": "new"} for uid in "ab"])


def handed_over(exporter: Exporter, outcome: Outcome) -> dict[str, tuple[int, set[str]]]:
    """How many documents of each collection are in a package, and of which moments."""
    assert outcome.error is None
    file = Path(str(exporter.requests.get(outcome.request_id).result_uri))
    documents = json.loads(file.read_bytes())
    return {
        name: (len(of), {document["moment"] for document in of})
        for name in STORED
        if (of := [document for document in documents if document["_col"] == name])
    }


ALL_NEW = {"app_usersx": (2, {"new"}), "eventsx": (MORE_THAN_A_FIRST_BATCH + 1, {"new"}), "viewsx": (2, {"new"})}


def published(exporter: Exporter) -> list[Path]:
    return [file for file in Path(exporter.settings.storage_root).glob("exports/**/*") if file.is_file()]


def moment_of(manifest: Manifest | None) -> ClusterTime:
    assert manifest is not None
    seconds, _, increment = str(manifest.moment.cluster_time).partition(".")
    return ClusterTime(int(seconds), int(increment))


# The server's history ages out


def test_a_batch_whose_moment_has_aged_out_starts_over_at_a_new_one(catalog: Path, tmp_path: Path) -> None:
    """No fault is made up here: the server is told to keep no history, and then really has none."""
    with embedded_mongo() as uri, MongoClient[dict[str, Any]](uri) as client:
        for name, documents in STORED.items():
            client["aged"][name].insert_many(documents)
        at = Settings(home=tmp_path / "home", mongo_uri=uri, mongo_database="aged", catalog=catalog)
        with Exporter(at) as exporter:
            batch, ids = claimed(exporter, "a", "b")
            plan = exporter.plan(batch.id)
            assert exporter.read_slice(plan, "users").outcome == "exported"
            move_on(client, "aged")
            client.admin.command({"setParameter": 1, "minSnapshotHistoryWindowInSeconds": 0})
            write_until_too_old(client, exporter, plan)
            assert exporter.read_slice(plan, "events").outcome == "failed"
            client.admin.command({"setParameter": 1, "minSnapshotHistoryWindowInSeconds": 300})
            outcomes = list(exporter.package(plan))
            assert [outcome.request_id for outcome in outcomes] == ids
            for outcome in outcomes:
                assert handed_over(exporter, outcome) == ALL_NEW
                assert moment_of(outcome.manifest) == exporter.load_plan(batch.id).cluster_time != plan.cluster_time


def write_until_too_old(client: Client, exporter: Exporter, plan: BatchPlan) -> None:
    views = plan.collection("views")
    assert views is not None
    assert views.source is not None
    reader = SnapshotReader(exporter.client, plan.cluster_time, exporter.settings.read_timeout)
    with pytest.raises(SnapshotTooOldError):  # noqa: PT012
        for _ in range(1000):
            client["aged"]["other"].insert_one({})
            reader.count(views.source, {})


@pytest.mark.parametrize("command", ["find", "getMore"])
@pytest.mark.parametrize("code", [TOO_OLD, UNAVAILABLE])
def test_collections_that_were_read_already_are_read_again(
    installation: Exporter, mongo_client: Client, breaking: Break, command: str, code: int
) -> None:
    batch, _ = claimed(installation, "a", "b")
    plan = installation.plan(batch.id)
    with breaking(command, 1, errorCode=code):
        assert read_all(installation, plan) == {"users": "exported", "events": "failed", "views": "exported"}
    move_on(mongo_client, installation.settings.mongo_database)
    a, b = installation.package(plan)
    assert handed_over(installation, a) == handed_over(installation, b) == ALL_NEW
    assert moment_of(a.manifest) == moment_of(b.manifest) != plan.cluster_time
    again = installation.load_plan(batch.id)
    assert (again.restarts, again.planned_at > plan.planned_at) == (1, True)
    assert installation.requests.get(a.request_id).documents_total == MORE_THAN_A_FIRST_BATCH + 5


def test_a_moment_that_ages_out_while_it_is_counted_is_chosen_anew(installation: Exporter, breaking: Break) -> None:
    request = installation.submit(NewRequest("x", ["a"]), run_here=True)
    with breaking("aggregate", 1, errorCode=TOO_OLD):
        manifest = installation.run_here(request)
    assert manifest.totals.documents_written == MORE_THAN_A_FIRST_BATCH + 2
    assert installation.requests.get(request.id).status == "completed"


def test_a_moment_that_ages_out_twice_fails_the_request_with_what_to_do(
    installation: Exporter, breaking: Break, tmp_path: Path
) -> None:
    request = installation.submit(NewRequest("x", ["a"]), run_here=True)
    with breaking("getMore", 2, errorCode=TOO_OLD), pytest.raises(CollectionUnreadableError) as raised:
        installation.run_here(request, tmp_path / "me.json")
    assert str(raised.value).startswith("events: eventsx: the server no longer has the chosen moment")
    assert "raise minSnapshotHistoryWindowInSeconds on the server" in str(raised.value)
    row = installation.requests.get(request.id)
    assert (row.status, row.error_code) == ("failed", "collection_unreadable")
    assert row.error_message == str(raised.value)
    assert not list(tmp_path.glob("me.json*"))
    assert retried(installation, request.id).error is None, "and two times were all"


def test_a_run_that_is_tried_again_does_not_start_over_once_more(installation: Exporter, breaking: Break) -> None:
    batch, _ = claimed(installation, "a")
    plan = installation.plan(batch.id).model_copy(update={"restarts": 1})
    with breaking("getMore", 1, errorCode=TOO_OLD):
        read_all(installation, plan)
    [outcome] = installation.package(plan)
    assert "raise minSnapshotHistoryWindowInSeconds" in str(outcome.error)


def test_other_failures_do_not_start_over(installation: Exporter, breaking: Break) -> None:
    batch, _ = claimed(installation, "a")
    plan = installation.plan(batch.id)
    with breaking("find", 1, errorCode=UNKNOWN):
        read_all(installation, plan)
    [outcome] = installation.package(plan)
    assert "events: eventsx: MongoDB refused the read" in str(outcome.error)
    assert installation.load_plan(batch.id) == plan


def test_where_starting_over_is_impossible_the_requests_fail_with_the_reason(
    installation: Exporter, mongo_client: Client, breaking: Break
) -> None:
    batch, ids = claimed(installation, "a", "b")
    plan = installation.plan(batch.id)
    with breaking("getMore", 1, errorCode=TOO_OLD):
        read_all(installation, plan)
    with failing(mongo_client, "find", "listCollections", errorCode=UNAUTHORIZED):
        outcomes = list(installation.package(plan))
    assert [outcome.request_id for outcome in outcomes] == ids
    for outcome in outcomes:
        assert "not authorized" in str(outcome.error)
        row = installation.requests.get(outcome.request_id)
        assert (row.status, row.error_code) == ("failed", "not_authorized")
    assert published(installation) == []


def test_a_batch_that_nobody_waits_for_any_more_does_not_start_over(installation: Exporter, breaking: Break) -> None:
    batch, ids = claimed(installation, "a", "b")
    plan = installation.plan(batch.id)
    with breaking("getMore", 1, errorCode=TOO_OLD):
        read_all(installation, plan)
    cancel(installation, ids[0])
    [outcome] = installation.package(plan)
    assert (outcome.request_id, outcome.error) == (ids[1], None)
    assert [request.id for request in installation.load_plan(batch.id).requests] == [ids[1]]


def test_a_batch_whose_requests_were_all_moved_on_ends_quietly(installation: Exporter, breaking: Break) -> None:
    batch, ids = claimed(installation, "a", "b")
    plan = installation.plan(batch.id)
    with breaking("getMore", 1, errorCode=TOO_OLD):
        read_all(installation, plan)
    cancel(installation, *ids)
    assert list(installation.package(plan)) == []
    assert {installation.requests.get(request_id).status for request_id in ids} == {"cancelled"}


def cancel(exporter: Exporter, *ids: str) -> None:
    with exporter.requests._engine.begin() as connection:
        connection.execute(update(export_requests).where(export_requests.c.id.in_(ids)).values(status="cancelled"))


# A collection that fails half-way

HOW: dict[str, tuple[dict[str, Any], str, str]] = {
    "connection closed": (
        {"closeConnection": True},
        "mongo_unreachable",
        "eventsx: MongoDB cannot be reached (AutoReconnect)",
    ),
    "unauthorized": (
        {"errorCode": UNAUTHORIZED},
        "not_authorized",
        "events: eventsx: not authorized; the user of EXPORT_PIPELINE_MONGO_URI needs the right 'find' on ",
    ),
    "unknown error": (
        {"errorCode": UNKNOWN},
        "collection_unreadable",
        "events: eventsx: MongoDB refused the read (UnknownError)",
    ),
}


def retried(exporter: Exporter, request_id: str) -> Outcome:
    """Try a failed request again, as the sensor would."""
    exporter.requests.retry(request_id, "test")
    batch = Batch(new_id(), (request_id,))
    exporter.requests.claim(batch)
    plan = exporter.plan(batch.id)
    read_all(exporter, plan)
    [outcome] = exporter.package(plan)
    return outcome


@pytest.mark.parametrize("how", HOW)
def test_a_collection_that_fails_half_way_fails_the_request_until_it_is_tried_again(
    installation: Exporter, breaking: Break, how: str, tmp_path: Path
) -> None:
    fault, code, reason = HOW[how]
    request = installation.submit(NewRequest("x", ["a"]), run_here=True)
    read: list[int] = []
    with breaking("getMore", 1, **fault), pytest.raises(ExportPipelineError) as raised:
        installation.run_here(request, tmp_path / "me.json", read.append)
    assert sum(read[:2]) == 1 + 101, "it is not half-way"
    assert str(raised.value).startswith(reason)
    row = installation.requests.get(request.id)
    assert (row.status, row.error_code, row.error_message) == ("failed", code, str(raised.value))
    assert row.result_uri is None
    assert not list(tmp_path.glob("me.json*"))
    assert not [file for file in Path(installation.settings.storage_root).rglob("*") if file.is_file()]
    assert handed_over(installation, retried(installation, request.id)) == {
        "app_usersx": (1, {"old"}),
        "eventsx": (MORE_THAN_A_FIRST_BATCH, {"old"}),
        "viewsx": (1, {"old"}),
    }
    assert installation.requests.get(request.id).status == "completed"


@pytest.mark.parametrize("command", ["find", "aggregate"])
def test_a_missing_right_on_one_collection_fails_those_who_need_it(
    installation: Exporter, mongo_client: Client, command: str
) -> None:
    namespace = f"{installation.settings.mongo_database}.eventsx"
    with failing(mongo_client, command, errorCode=UNAUTHORIZED, namespace=namespace):
        batch, _ = claimed(installation, "a", "b")
        plan = installation.plan(batch.id)
        read_all(installation, plan)
        outcomes = list(installation.package(plan))
        without = installation.submit(
            NewRequest("x", ["a"], narrowing=Narrowing(exclude_collections=("events",))), run_here=True
        )
        assert installation.run_here(without).not_asked == ("events",)
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert isinstance(outcome.error, NotAuthorizedError)
        assert str(outcome.error).startswith("events: eventsx: not authorized")
    assert len(published(installation)) == 2, "the file and the manifest of the one that did not need it"


# The server dies


def test_a_server_that_is_killed_in_the_middle_publishes_nothing(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export_pipeline.mongo.connection.FIND_SERVER_MS", 2000)
    with embedded_mongo() as uri:
        with MongoClient[dict[str, Any]](uri) as client:
            for name, documents in STORED.items():
                client["killed"][name].insert_many(documents)
        at = Settings(home=tmp_path / "home", mongo_uri=uri, mongo_database="killed", catalog=catalog)
        with Exporter(at) as exporter:
            batch, ids = claimed(exporter, "a", "b")
            plan = exporter.plan(batch.id)
            exporter.read_slice(plan, "users")
            with pytest.raises(MongoUnreachableError, match=r"^eventsx: MongoDB cannot be reached"):
                exporter.read_slice(plan, "events", lambda _: server_of(uri).send_signal(signal.SIGKILL))
            for request_id in ids:
                row = exporter.requests.get(request_id)
                assert (row.status, row.error_code) == ("pending", "mongo_unreachable")
                assert str(row.error_message).startswith("eventsx: MongoDB cannot be reached")
            assert list(exporter.package(plan)) == []
            assert published(exporter) == []
            with pytest.raises(ExportPipelineError, match="cannot be reached"):
                exporter.run_here(exporter.submit(NewRequest("x", ["a"]), run_here=True))
            assert exporter.requests.latest(1)[0].error_code == "mongo_unreachable"


def server_of(uri: str) -> psutil.Process:
    """The process of one of our own servers."""
    port = uri.removeprefix("mongodb://127.0.0.1:").partition("/")[0]
    [server] = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.name() == "mongod" and port in process.cmdline()
    ]
    return server
