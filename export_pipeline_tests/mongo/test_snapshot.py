"""One point in time: what is read at a cluster time stays as it was, whatever is written meanwhile."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import bson
import pytest
from bson import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandStartedEvent

from export_pipeline.errors import MongoUnreachableError, PointInTimeError, ReadFailedError
from export_pipeline.mongo import snapshot
from export_pipeline.mongo.bson_stream import documents
from export_pipeline.mongo.connection import SnapshotTooOldError, connect
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.mongo.snapshot import (
    ClusterTime,
    CollectionId,
    SnapshotReader,
    choose_moment,
    documents_to_ask_for,
)
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.mongo.faults import Sent, failing

Client = MongoClient[dict[str, Any]]

LIMIT = timedelta(seconds=30)
MORE_THAN_A_FIRST_BATCH = 250  # the server's first batch holds 101 documents
SECRET = "secret-uid"


@pytest.fixture(scope="module")
def client(mongo_uri: str) -> Iterator[Client]:
    """A client as the exporter has it."""
    with connect(mongo_uri) as client:
        yield client


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"_id": number, "uid": f"u{number % 3}", "version": 1} for number in range(count)]


def read(reader: SnapshotReader, source: CollectionId, selector: dict[str, Any] | None = None) -> list[Any]:
    """The documents, in the order of their ids."""
    found = [
        bson.decode(document) for batch in reader.raw_batches(source, selector or {}) for document in documents(batch)
    ]
    return sorted(found, key=lambda document: str(document["_id"]))


def count(reader: SnapshotReader, source: CollectionId) -> dict[str, int]:
    return dict(reader.count_by_value(source, "uid", {}))


def reader_of(client: Client, database: str, *names: str) -> tuple[SnapshotReader, list[CollectionId]]:
    """A reader at a moment chosen now, and what it can read."""
    moment = choose_moment(client, [(database, name) for name in names])
    return SnapshotReader(client, moment.cluster_time, LIMIT), [moment.collections[database, name] for name in names]


# One point in time


def test_readers_of_one_cluster_time_read_the_same_whatever_is_written(
    client: Client, mongo_uri: str, mongo_client: Client, make_database: MakeDatabase
) -> None:
    names = ("events", "profiles")
    database = make_database({"events": numbered(300), "profiles": numbered(20)}).mongo_database
    moment = choose_moment(client, [(database, name) for name in names])
    sources = list(moment.collections.values())

    def read_all(_: int) -> list[Any]:
        with connect(mongo_uri) as own_client:
            reader = SnapshotReader(own_client, moment.cluster_time, LIMIT)
            return [(read(reader, source), count(reader, source)) for source in sources]

    before = read_all(0)
    assert [len(found) for found, _ in before] == [300, 20]
    for name in names:
        collection = mongo_client[database][name]
        collection.delete_many({"_id": {"$lt": 10}})
        collection.update_many({}, {"$inc": {"version": 1}})
        collection.insert_many([{"uid": "u0"} for _ in range(50)])
    with ThreadPoolExecutor(4) as threads:
        for after in threads.map(read_all, range(8)):
            assert after == before
    assert read(SnapshotReader(client, None, LIMIT), sources[0]) != before[0][0], "nothing was written in between"


def test_every_read_names_the_cluster_time_to_the_server(
    mongo_uri: str, client: Client, make_database: MakeDatabase
) -> None:
    database = make_database({"c": numbered(3)}).mongo_database
    moment = choose_moment(client, [(database, "c")])
    assert moment.cluster_time is not None
    [source] = moment.collections.values()
    sent = Sent()
    with MongoClient[dict[str, Any]](mongo_uri, event_listeners=[sent]) as watched:
        reader = SnapshotReader(watched, moment.cluster_time, LIMIT)
        read(reader, source)
        count(reader, source)
    at = Timestamp(moment.cluster_time.seconds, moment.cluster_time.increment)
    assert [command["readConcern"] for command in sent.reads] == [{"level": "snapshot", "atClusterTime": at}] * 2


def test_what_was_written_before_is_in_the_moment(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    database = make_database({"c": []}).mongo_database
    for number in range(20):
        mongo_client[database]["c"].insert_one({"_id": number})
        reader, [source] = reader_of(client, database, "c")
        assert len(read(reader, source)) == number + 1


# What exists at the moment


def test_absent_collections_are_not_in_the_moment(client: Client, make_database: MakeDatabase) -> None:
    database = make_database({"here": [], "not asked for": []}).mongo_database
    moment = choose_moment(client, [(database, "here"), (database, "gone"), ("no_such_database", "here")])
    assert list(moment.collections) == [(database, "here")]
    assert moment.cluster_time is not None


def test_where_nothing_exists_there_is_no_cluster_time(client: Client) -> None:
    moment = choose_moment(client, [("no_such_database", "gone")])
    assert not moment.collections
    assert moment.cluster_time is None


class CreatesWhileChoosing(Sent):
    """Creates the next collection each time the client is about to read the cluster time."""

    def __init__(self, create: Callable[[str], object], names: list[str]) -> None:
        super().__init__()
        self.create, self.names = create, names

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find" and self.names:
            self.create(self.names.pop(0))


def test_a_collection_that_appears_while_the_time_is_chosen_is_in_the_moment(
    mongo_uri: str, client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    database = make_database({"old": []}).mongo_database
    listener = CreatesWhileChoosing(lambda name: mongo_client[database][name].insert_one({"_id": 1}), ["new"])
    with MongoClient[dict[str, Any]](mongo_uri, event_listeners=[listener]) as watched:
        moment = choose_moment(watched, [(database, "old"), (database, "new")])
    reader = SnapshotReader(client, moment.cluster_time, LIMIT)
    assert read(reader, moment.collections[database, "new"]) == [{"_id": 1}]


def test_collections_that_keep_appearing_end_in_an_error(
    mongo_uri: str, mongo_client: Client, make_database: MakeDatabase
) -> None:
    database = make_database({"c": []}).mongo_database
    names = [f"c{number}" for number in range(9)]
    listener = CreatesWhileChoosing(mongo_client[database].create_collection, names.copy())
    with MongoClient[dict[str, Any]](mongo_uri, event_listeners=[listener]) as watched:
        wanted = [(database, name) for name in ("c", *names)]
        with pytest.raises(ReadFailedError, match="keep appearing"):
            choose_moment(watched, wanted)


# Collections that vanish

GONE = (ReadFailedError, SnapshotTooOldError)  # the latter where another collection has taken its place


def dropped(database: Any) -> None:
    database["c"].drop()


def replaced(database: Any) -> None:
    database["c"].drop()
    database["c"].insert_many(numbered(MORE_THAN_A_FIRST_BATCH))


def renamed(database: Any) -> None:
    database["c"].rename("elsewhere")


@pytest.mark.parametrize("change", [dropped, replaced, renamed])
@pytest.mark.parametrize("how", [read, count])
@pytest.mark.parametrize("point_in_time", [True, False])
def test_a_collection_that_is_gone_before_the_read_is_not_read_as_empty(
    client: Client,
    mongo_client: Client,
    make_database: MakeDatabase,
    change: Callable[[Any], None],
    how: Callable[[SnapshotReader, CollectionId], object],
    point_in_time: bool,
) -> None:
    database = make_database({"c": numbered(3)}).mongo_database
    moment = choose_moment(client, [(database, "c")])
    change(mongo_client[database])
    reader = SnapshotReader(client, moment.cluster_time if point_in_time else None, LIMIT)
    with pytest.raises(GONE, match=r"^c( was dropped, renamed or replaced|: the server no longer has)"):
        how(reader, moment.collections[database, "c"])


@pytest.mark.parametrize("change", [dropped, replaced, renamed])
def test_a_collection_that_goes_during_the_read_is_not_read_as_shorter(
    client: Client, mongo_client: Client, make_database: MakeDatabase, change: Callable[[Any], None]
) -> None:
    database = make_database({"c": numbered(MORE_THAN_A_FIRST_BATCH)}).mongo_database
    reader, [source] = reader_of(client, database, "c")
    batches = reader.raw_batches(source, {})
    next(batches)
    change(mongo_client[database])
    with pytest.raises(GONE, match=r"^c"):
        list(batches)


# Servers that cannot


@pytest.fixture(scope="module")
def standalone() -> Iterator[Client]:
    with embedded_mongo(replica_set=False) as uri, connect(uri) as client:
        client["d"]["c"].insert_many(numbered(3))
        yield client


def test_a_standalone_server_is_refused(standalone: Client) -> None:
    with pytest.raises(PointInTimeError, match="EXPORT_PIPELINE_REQUIRE_POINT_IN_TIME=false"):
        choose_moment(standalone, [("d", "c")])


def test_a_standalone_server_is_read_without_a_point_in_time_where_that_is_allowed(standalone: Client) -> None:
    moment = choose_moment(standalone, [("d", "c")], required=False)
    assert moment.cluster_time is None
    reader = SnapshotReader(standalone, None, LIMIT)
    assert read(reader, moment.collections["d", "c"]) == numbered(3)
    assert count(reader, moment.collections["d", "c"]) == {"u0": 1, "u1": 1, "u2": 1}


def test_a_moment_that_has_aged_out_is_an_error() -> None:
    with (
        embedded_mongo(parameters={"minSnapshotHistoryWindowInSeconds": "0"}) as uri,
        connect(uri) as client,
    ):
        client["d"]["c"].insert_many(numbered(MORE_THAN_A_FIRST_BATCH))
        reader, [source] = reader_of(client, "d", "c")
        with pytest.raises(SnapshotTooOldError, match="minSnapshotHistoryWindowInSeconds"):  # noqa: PT012
            for _ in range(1000):
                client["d"]["c"].update_one({}, {"$inc": {"version": 1}})
                read(reader, source)


def test_a_moment_before_the_collection_is_an_error(client: Client, make_database: MakeDatabase) -> None:
    database = make_database({"c": numbered(3)}).mongo_database
    _, [source] = reader_of(client, database, "c")
    with pytest.raises(SnapshotTooOldError, match=r"^c: "):
        read(SnapshotReader(client, ClusterTime(1, 1), LIMIT), source)


@pytest.mark.parametrize("required", [True, False])
def test_a_snapshot_that_is_not_available_now_is_not_taken_for_a_standalone_server(
    client: Client, mongo_client: Client, make_database: MakeDatabase, required: bool
) -> None:
    database = make_database({"c": numbered(3)}).mongo_database
    snapshot_unavailable = 246
    with (
        failing(mongo_client, "find", errorCode=snapshot_unavailable),
        pytest.raises(SnapshotTooOldError, match="retry"),
    ):
        choose_moment(client, [(database, "c")], required=required)


# What a read gives


def test_batches_hold_whole_documents(client: Client, make_database: MakeDatabase) -> None:
    big = [{"_id": number, "text": "x" * 1_000_000} for number in range(20)]
    database = make_database({"c": big}).mongo_database
    reader, [source] = reader_of(client, database, "c")
    sizes = []
    for batch in reader.raw_batches(source, {}):
        sizes.append([len(document) for document in documents(batch)])
        assert sum(sizes[-1]) == len(batch) <= 17_000_000
    assert len(sizes) > 1
    assert [size for batch in sizes for size in batch] == [len(bson.encode(document)) for document in big]


@pytest.mark.parametrize(("size", "count"), [(500, 12_000), (50_000, 400), (1_500_000, 24)])
def test_batches_are_of_about_the_same_bytes_whatever_the_documents_size(
    client: Client, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch, size: int, count: int
) -> None:
    """The driver's own batches, after the first, would be of 16 MB; fails where a cursor's batch size no longer is."""
    monkeypatch.setattr(snapshot, "BATCH_BYTES", 1_000_000)
    at = make_database({"c": [{"_id": number, "text": "x" * size} for number in range(count)]})
    reader, [source] = reader_of(client, at.mongo_database, "c")
    batches = [len(batch) for batch in reader.raw_batches(source, {})]
    assert sum(batches) >= size * count
    settled = batches[len(batches) // 2 : -1]
    assert settled
    assert all(600_000 <= batch <= max(1_100_000, 1.1 * size) for batch in settled)


@pytest.mark.parametrize(
    ("asked", "got", "then"),
    [(101, 10_100, 41_943), (101, 4_194_304, 101), (101, 16_777_216, 25), (2, 16_000_000, 1), (101, 0, 423_624_704)],
)
def test_the_next_batch_has_as_many_documents_as_fill_it(asked: int, got: int, then: int) -> None:
    assert documents_to_ask_for(asked, got) == then


def test_a_read_takes_a_selector_and_a_projection(client: Client, make_database: MakeDatabase) -> None:
    database = make_database({"c": numbered(9)}).mongo_database
    reader, [source] = reader_of(client, database, "c")
    [batch] = reader.raw_batches(source, {"_id": 4}, {"version": 0})
    assert bson.decode(batch) == {"_id": 4, "uid": "u1"}


def test_nothing_found_is_no_document(client: Client, make_database: MakeDatabase) -> None:
    database = make_database({"c": numbered(9)}).mongo_database
    reader, [source] = reader_of(client, database, "c")
    assert read(reader, source, {"uid": "nobody"}) == []


def test_a_collation_of_the_collection_does_not_match_another_persons_uid(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    database = make_database({}).mongo_database
    collection = mongo_client[database].create_collection("c", collation={"locale": "en", "strength": 1})
    collection.create_index("uid")
    collection.insert_many([{"_id": 1, "uid": "abc"}, {"_id": 2, "uid": "ABC"}, {"_id": 3, "uid": "äbc"}])
    wanted = {"uid": {"$in": ["abc"]}}
    assert collection.count_documents(wanted) == 3
    reader, [source] = reader_of(client, database, "c")
    assert read(reader, source, wanted) == [{"_id": 1, "uid": "abc"}]
    assert dict(reader.count_by_value(source, "uid", wanted)) == {"abc": 1}


def test_values_that_python_cannot_hold_are_counted(client: Client, make_database: MakeDatabase) -> None:
    far_away = bson.datetime_ms.DatetimeMS(2**60)
    damaged = bson.raw_bson.RawBSONDocument(bson.encode({"_id": 2, "uid": ["a", "QQ"]}).replace(b"QQ", b"Q\xff"))
    database = make_database({"c": [{"_id": 1, "uid": ["a", far_away]}, damaged]}).mongo_database
    reader, [source] = reader_of(client, database, "c")
    groups = list(reader.count_by_value(source, "uid", {"uid": "a"}))
    assert [documents for _, documents in groups] == [1, 1]
    assert {value[0] for value, _ in groups} == {"a"}


# Failures in the middle


@pytest.mark.parametrize(
    ("how", "error"),
    [({"errorCode": 8}, ReadFailedError), ({"closeConnection": True}, MongoUnreachableError)],
)
def test_a_failure_in_the_middle_of_a_read_is_an_error(
    client: Client, mongo_client: Client, make_database: MakeDatabase, how: dict[str, Any], error: type[Exception]
) -> None:
    everyone = [{"_id": number, "uid": SECRET} for number in range(MORE_THAN_A_FIRST_BATCH)]
    database = make_database({"c": everyone}).mongo_database
    reader, [source] = reader_of(client, database, "c")
    batches = reader.raw_batches(source, {"uid": SECRET})
    next(batches)
    with failing(mongo_client, "getMore", **how), pytest.raises(error, match=r"^c: ") as raised:
        list(batches)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_refusal_that_quotes_the_filter_is_not_passed_on(client: Client, make_database: MakeDatabase) -> None:
    database = make_database({"c": numbered(3)}).mongo_database
    reader, [source] = reader_of(client, database, "c")
    refused = {"uid": SECRET, "place": {"$near": [0, 0]}}  # there is no index for $near
    with pytest.raises(OperationFailure, match=SECRET):
        list(client[database]["c"].find(refused))
    with pytest.raises(ReadFailedError, match=r"^c: MongoDB refused the read") as raised:
        read(reader, source, refused)
    assert SECRET not in str(raised.value)
