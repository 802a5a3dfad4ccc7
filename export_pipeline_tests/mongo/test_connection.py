"""Connecting, and what an operator reads when the server does not do what it should."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient, ReadPreference
from pymongo.errors import (
    AutoReconnect,
    CursorNotFound,
    DocumentTooLarge,
    ExecutionTimeout,
    InvalidName,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from export_pipeline.errors import BadInputError, MongoUnreachableError, ReadFailedError
from export_pipeline.mongo.connection import NotAuthorizedError, Right, connect, translate
from export_pipeline.mongo.embedded import free_port
from export_pipeline.mongo.snapshot import CollectionId, SnapshotReader, choose_moment
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.mongo.faults import Sent, fail_point, failing

Client = MongoClient[dict[str, Any]]

PASSWORD = "hunter2"
SECRET = "secret-uid"


@pytest.fixture(scope="module")
def client(mongo_uri: str) -> Iterator[Client]:
    """A client as the exporter has it."""
    with connect(mongo_uri) as client:
        yield client


def source_of(client: Client, database: str) -> CollectionId:
    return choose_moment(client, [(database, "c")]).collections[database, "c"]


def test_a_server_that_is_not_there_is_reported_within_10_seconds() -> None:
    with connect(f"mongodb://user:{PASSWORD}@127.0.0.1:{free_port()}/") as client:
        begun = time.monotonic()
        with pytest.raises(MongoUnreachableError, match="EXPORT_PIPELINE_MONGO_URI") as raised:
            choose_moment(client, [("d", "c")])
        assert time.monotonic() - begun < 10
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "127.0.0.1:27017:27018",
        f"postgresql://user:{PASSWORD}@db/",
        f"mongodb://user:{PASSWORD}@db:port/",
        f"mongodb://user:{PASSWORD}@x@db/",
        f"mongodb://user:{PASSWORD}/@db/",
        f"mongodb://user:%{PASSWORD}@db/",
        f"mongodb://user:{PASSWORD}@",
        f"mongodb://user:{PASSWORD}@db:99999/",
        f"mongodb://user:{PASSWORD}@db/?replicaSet",
        f"mongodb+srv://user:{PASSWORD}@db:27017/",
    ],
)
def test_a_uri_that_is_none_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(BadInputError, match="EXPORT_PIPELINE_MONGO_URI is not a MongoDB connection string") as raised:
        connect(uri)
    assert PASSWORD not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_refused_login_is_said_without_the_password(mongo_uri: str) -> None:
    with (
        connect(mongo_uri.replace("//", f"//somebody:{PASSWORD}@")) as client,
        pytest.raises(NotAuthorizedError, match="refused the user name or password") as raised,
    ):
        choose_moment(client, [("d", "c")])
    assert PASSWORD not in str(raised.value)


def test_a_missing_right_names_the_collection_and_the_role(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    database = make_database({"c": [{"_id": 1}]}).mongo_database
    source = source_of(client, database)
    reader = SnapshotReader(client, None, timedelta(seconds=30))
    unauthorized = 13
    with failing(mongo_client, "find", "aggregate", errorCode=unauthorized, namespace=f"{database}.c"):
        for read in (reader.raw_batches(source, {}), reader.count_by_value(source, "uid", {})):
            with pytest.raises(
                NotAuthorizedError,
                match=rf"^c: not authorized; .* needs the right 'find' on {database}\.c \(the role 'read'",
            ):
                list(read)


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect(SECRET),
        ServerSelectionTimeoutError(SECRET),
        InvalidName(SECRET),
        DocumentTooLarge(SECRET),
        ExecutionTimeout(SECRET, 50, {"errmsg": SECRET}),
        CursorNotFound(SECRET, 43, {"errmsg": SECRET, "codeName": "CursorNotFound"}),
        *(OperationFailure(SECRET, code, {"errmsg": SECRET}) for code in (8, 13, 18, 123, 239, 246, 8000)),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'code', '')}",
)
def test_no_error_of_the_driver_is_passed_on_in_its_own_words(error: PyMongoError) -> None:
    ours = translate(error, "events")
    assert str(ours).startswith("events: ")
    assert SECRET not in str(ours)


def test_what_atlas_refuses_may_be_the_login_or_the_right() -> None:
    """Its shared servers have one code for both."""
    ours = translate(OperationFailure(SECRET, 8000, {"codeName": "AtlasError"}), "c", Right("find", "d", "c"))
    assert isinstance(ours, NotAuthorizedError)
    assert str(ours).startswith(
        "c: MongoDB Atlas refused the login or the right; the user of EXPORT_PIPELINE_MONGO_URI"
    )


def test_a_list_of_collections_that_is_refused_is_an_error_and_not_an_empty_list(
    client: Client, mongo_client: Client
) -> None:
    unauthorized = 13
    with (
        failing(mongo_client, "listCollections", errorCode=unauthorized),
        pytest.raises(
            NotAuthorizedError,
            match=r"^the list of collections of d: not authorized; .* the right 'listCollections' on the database d \(",
        ),
    ):
        choose_moment(client, [("d", "c")])


def test_a_server_that_hangs_up_is_unreachable(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    database = make_database({"c": [{"_id": 1}]}).mongo_database
    source = source_of(client, database)
    reader = SnapshotReader(client, None, timedelta(seconds=30))
    with failing(mongo_client, "find", closeConnection=True), pytest.raises(MongoUnreachableError, match=r"^c: "):
        list(reader.raw_batches(source, {}))


def test_a_query_that_takes_too_long_is_stopped_by_the_server(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    database = make_database({"c": [{"_id": 1}]}).mongo_database
    source = source_of(client, database)
    reader = SnapshotReader(client, None, timedelta(seconds=30))
    with fail_point(mongo_client, "maxTimeAlwaysTimeOut"):
        for read in (reader.raw_batches(source, {}), reader.count_by_value(source, "uid", {})):
            with pytest.raises(
                ReadFailedError, match=r"^c: the server worked longer than EXPORT_PIPELINE_READ_TIMEOUT"
            ):
                list(read)


def test_every_read_tells_the_server_its_limit(mongo_uri: str, client: Client, make_database: MakeDatabase) -> None:
    database = make_database({"c": [{"_id": 1}]}).mongo_database
    source = source_of(client, database)
    sent = Sent()
    with MongoClient[dict[str, Any]](mongo_uri, event_listeners=[sent]) as watched:
        reader = SnapshotReader(watched, None, timedelta(seconds=1.5))
        list(reader.raw_batches(source, {}))
        list(reader.count_by_value(source, "uid", {}))
    assert [command["maxTimeMS"] for command in sent.reads] == [1500, 1500]


@pytest.mark.parametrize(
    ("options", "preference"),
    [
        ("", ReadPreference.SECONDARY_PREFERRED),
        ("?replicaSet=rs0", ReadPreference.SECONDARY_PREFERRED),
        ("?readPreference=primary", ReadPreference.PRIMARY),
        ("?readpreference=nearest", ReadPreference.NEAREST),
    ],
)
def test_it_reads_from_secondaries_unless_the_uri_says_otherwise(options: str, preference: object) -> None:
    with connect(f"mongodb://127.0.0.1:1/{options}") as client:
        assert client.read_preference == preference
