"""Reading pauses while the source works too hard, goes on afterwards, and never takes more than its share."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Lock
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from export_pipeline.errors import MongoUnreachableError, StaleRequestError
from export_pipeline.guardian import Guarded
from export_pipeline.mongo import pressure
from export_pipeline.mongo.connection import connect, driver_errors
from export_pipeline.mongo.embedded import embedded_mongo, find_server, free_port
from export_pipeline.mongo.pressure import (
    Limits,
    Measured,
    Pace,
    SourceHealth,
    SourceUnderPressureError,
    health_of,
    lag_of,
    lag_of_self,
    reason_to_pause,
)
from export_pipeline.mongo.snapshot import CollectionId, SnapshotReader, choose_moment
from export_pipeline.settings import Settings
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.mongo.faults import fail_point, failing

Client = MongoClient[dict[str, Any]]

SECOND = timedelta(seconds=1)
LIMITS = Limits(lag=60 * SECOND, cache_dirty=0.2, cache_used=0.95)
UNAUTHORIZED = 13


@pytest.fixture
def client(mongo_uri: str) -> Iterator[Client]:
    """A client as the exporter has it, that knows nothing yet."""
    with connect(mongo_uri) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    pressure._healths.clear()


class Commands(CommandListener):
    """The commands that a client has sent, and how many of one kind were under way at once."""

    def __init__(self, counted: str = "find") -> None:
        self.names: list[str] = []
        self.most_at_once = 0
        self._counted, self._at_once, self._lock = counted, 0, Lock()

    def started(self, event: CommandStartedEvent) -> None:
        with self._lock:
            self.names += [event.command_name] if event.command_name != "endSessions" else []
            self._at_once += event.command_name == self._counted
            self.most_at_once = max(self.most_at_once, self._at_once)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        with self._lock:
            self._at_once -= event.command_name == self._counted

    def failed(self, event: CommandFailedEvent) -> None:
        self.succeeded(event)  # type: ignore[arg-type]


# When to pause


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (Measured(), None),
        (Measured(lag=59 * SECOND, cache_dirty=0.19, cache_used=0.94), None),
        (Measured(lag=75 * SECOND), "a secondary is 75 s behind (EXPORT_PIPELINE_MAX_REPLICATION_LAG is 60 s)"),
        (
            Measured(lag=0 * SECOND, cache_dirty=0.2, cache_used=0.5),
            "20.0% of the server's cache waits to be written (EXPORT_PIPELINE_MAX_CACHE_DIRTY is 0.2)",
        ),
        (
            Measured(cache_dirty=0.01, cache_used=0.97),
            "97.0% of the server's cache is in use (EXPORT_PIPELINE_MAX_CACHE_USED is 0.95)",
        ),
    ],
)
def test_reading_pauses_from_a_limit_on(measured: Measured, reason: str | None) -> None:
    assert reason_to_pause(measured, LIMITS) == reason


def test_without_limits_nothing_is_a_reason_to_pause() -> None:
    off = Limits.of(Settings(max_replication_lag=0, max_cache_dirty=0, max_cache_used=0))
    assert reason_to_pause(Measured(lag=timedelta(days=1), cache_dirty=1.0, cache_used=1.0), off) is None


# How far behind


@dataclass
class Member:
    """What the driver knows of a member: when it last told of itself, and of its last write."""

    server_type_name: str
    last_update_time: float
    last_write_date: float | None


@pytest.mark.parametrize(
    ("members", "lag"),
    [
        ([Member("RSPrimary", 100, 5000), Member("RSSecondary", 100, 4970)], 30),
        ([Member("RSPrimary", 100, 5000), Member("RSSecondary", 108, 5000)], 8),
        ([Member("RSPrimary", 108, 5008), Member("RSSecondary", 100, 5000)], 0),
        ([Member("RSPrimary", 100, 5000), Member("RSSecondary", 100, 4990), Member("RSSecondary", 100, 4900)], 100),
        ([Member("RSPrimary", 100, 5000), Member("RSSecondary", 90, 5000)], 0),
        ([Member("RSPrimary", 100, 5000), Member("RSOther", 100, 1), Member("RSSecondary", 100, None)], 0),
        ([Member("RSSecondary", 100, 5000)], None),
        ([], None),
    ],
)
def test_the_lag_is_that_of_the_furthest_secondary(members: list[Any], lag: int | None) -> None:
    assert lag_of(members) == (None if lag is None else lag * SECOND)


def test_a_member_that_is_asked_directly_compares_itself_with_the_primary() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    primary = {"stateStr": "PRIMARY", "optimeDate": at}
    own = {"stateStr": "SECONDARY", "optimeDate": at - 90 * SECOND, "self": True}
    other = {"stateStr": "SECONDARY", "optimeDate": at - 300 * SECOND}
    assert lag_of_self({"members": [primary, own, other]}) == 90 * SECOND
    assert lag_of_self({"members": [{**primary, "self": True}, other]}) == 0 * SECOND
    assert lag_of_self({"members": [own, other]}) is None
    assert lag_of_self({"members": [primary, {"stateStr": "STARTUP", "self": True}]}) is None


# Looking at a server


def test_a_look_tells_what_the_server_tells(client: Client) -> None:
    measured = SourceHealth().look(client)
    cache = client.admin.command("serverStatus")["wiredTiger"]["cache"]
    used = cache["bytes currently in the cache"] / cache["maximum bytes configured"]
    assert measured.lag == 0 * SECOND
    assert measured.cache_used == pytest.approx(used, abs=0.05)
    assert measured.cache_dirty is not None
    assert 0 <= measured.cache_dirty <= used + 0.05


def test_looks_are_seldom(mongo_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    with Client(mongo_uri, event_listeners=[commands]) as watched:
        health = SourceHealth()
        for _ in range(100):
            health.look(watched)
        assert sorted(commands.names) == ["replSetGetStatus", "serverStatus"]
        monkeypatch.setattr(pressure, "LOOK_EVERY", 0.0)
        health = SourceHealth()
        for _ in range(3):
            health.look(watched)
    assert len(commands.names) == 2 + 2 * 3


def test_clients_of_one_server_share_its_health(mongo_uri: str, client: Client) -> None:
    with connect(mongo_uri) as another:
        assert health_of(another) is health_of(client)
        assert len(pressure._healths) == 1


def test_a_user_who_may_only_read_is_not_watched_and_not_stopped(
    mongo_uri: str, mongo_client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "LOOK_EVERY", 0.0)
    commands = Commands()
    with (
        Client(mongo_uri, appname="export_pipeline", event_listeners=[commands]) as watched,
        failing(mongo_client, "serverStatus", "replSetGetStatus", errorCode=UNAUTHORIZED),
        caplog.at_level(logging.INFO, pressure.__name__),
    ):
        pace = Pace(watched, Settings(max_cache_used=1e-9))  # any server that is watched is over that
        for _ in range(5):
            pace.wait()
    assert sorted(commands.names) == ["replSetGetStatus", "serverStatus"], "it was asked again"
    why = "the server refuses to tell (Unauthorized); the role 'clusterMonitor' allows it"
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"cache pressure is not watched while reading: {why}",
        f"replication lag is not watched while reading: {why}",
    ]


@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 8}])
def test_a_look_that_fails_by_accident_stops_nothing_and_the_next_one_sees_again(
    client: Client, mongo_client: Client, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "LOOK_EVERY", 0.0)
    health = SourceHealth()
    with failing(mongo_client, "serverStatus", "replSetGetStatus", **how):
        assert health.look(client) == Measured()
    assert health.look(client).cache_used


def test_where_there_is_no_server_the_read_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export_pipeline.mongo.connection.FIND_SERVER_MS", 200)
    with connect(f"mongodb://127.0.0.1:{free_port()}/") as nobody:
        reader = SnapshotReader(nobody, None, SECOND, Pace(nobody, Settings()))
        with pytest.raises(MongoUnreachableError, match=r"^c: MongoDB cannot be reached"):
            reader.count(CollectionId("d", "c", None), {})
        with pytest.raises(MongoUnreachableError), driver_errors("the state of the source"):
            Pace(nobody, Settings()).wait()


# Pausing


class Napping:
    """Naps that are over at once; after as many as it is told, the pressure is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, until: float = 1e9) -> None:
        self.naps: list[float] = []
        self.told = 0
        self.until = until
        monkeypatch.setattr(SourceHealth, "look", lambda *_: self.measured())

    def measured(self) -> Measured:
        return Measured(cache_dirty=0.5 if len(self.naps) < self.until else 0.1)

    def pace(self, client: Client, on_pause: Callable[[], None] = lambda: None, **settings: Any) -> Pace:
        def told() -> None:
            self.told += 1
            on_pause()

        return Pace(client, Settings(**settings), told, self.naps.append)


def test_a_pause_ends_when_the_pressure_is_gone(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    napping = Napping(monkeypatch, until=5)
    pace = napping.pace(client)
    pace.wait()
    assert napping.naps == [2.0, 4.0, 8.0, 8.0, 8.0]
    assert napping.told == 5
    pace.wait()
    assert len(napping.naps) == 5
    assert [record.getMessage() for record in caplog.records] == [
        "reading pauses: 50.0% of the server's cache waits to be written (EXPORT_PIPELINE_MAX_CACHE_DIRTY is 0.2)",
        "reading goes on after 30 s",
    ]


def test_pauses_end_in_a_failure_that_says_why(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    napping = Napping(monkeypatch)
    with pytest.raises(SourceUnderPressureError, match=r"paused for 0:00:20 in all .*EXPORT_PIPELINE_MAX_CACHE_DIRTY"):
        napping.pace(client, max_pause=timedelta(seconds=20)).wait()
    assert napping.naps == [2.0, 4.0, 8.0, 6.0]
    assert SourceUnderPressureError.code == "source_under_pressure"


def test_all_pauses_of_one_piece_of_work_count(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    napping = Napping(monkeypatch, until=3)
    pace = napping.pace(client, max_pause=timedelta(seconds=20))
    pace.wait()
    assert sum(napping.naps) == 2 + 4 + 8
    napping.until = 1e9
    with pytest.raises(SourceUnderPressureError):
        pace.wait()
    assert sum(napping.naps) == 20


def test_who_is_told_of_a_pause_may_end_the_work(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled() -> None:
        raise StaleRequestError("the request was cancelled")

    napping = Napping(monkeypatch)
    with pytest.raises(StaleRequestError):
        napping.pace(client, cancelled).wait()
    assert napping.naps == []


# Only so many at once


@pytest.mark.parametrize("most", [1, 3])
def test_a_process_has_only_so_many_reads_under_way(
    mongo_uri: str, mongo_client: Client, make_database: MakeDatabase, most: int
) -> None:
    at = make_database({"c": [{"_id": 1}]}).model_copy(update={"concurrent_reads": most})
    commands = Commands("find")
    with Client(mongo_uri, appname="export_pipeline", event_listeners=[commands]) as watched:
        moment = choose_moment(watched, [(at.mongo_database, "c")])
        [source] = moment.collections.values()

        def read(_: int) -> int:
            reader = SnapshotReader(watched, moment.cluster_time, SECOND, Pace(watched, at))
            return len(list(reader.raw_batches(source, {})))

        with (
            failing(mongo_client, "find", blockConnection=True, blockTimeMS=100),
            ThreadPoolExecutor(8) as threads,
        ):
            assert list(threads.map(read, range(8))) == [1] * 8
    assert commands.most_at_once == most


def test_who_holds_a_half_read_collection_keeps_nobody_from_reading(
    client: Client, make_database: MakeDatabase
) -> None:
    at = make_database({"c": [{"_id": number} for number in range(300)]}).model_copy(update={"concurrent_reads": 1})
    moment = choose_moment(client, [(at.mongo_database, "c")])
    [source] = moment.collections.values()
    reader = SnapshotReader(client, moment.cluster_time, SECOND, Pace(client, at))
    half_read = reader.raw_batches(source, {})
    next(half_read)
    assert reader.count(source, {}) == 300
    half_read.close()  # type: ignore[attr-defined]
    assert reader.count(source, {}) == 300


# A replica set that really lags


@contextmanager
def second_member(primary: Client) -> Iterator[Client]:
    """Add a secondary to a replica set of one; yields a direct connection to it."""
    with tempfile.TemporaryDirectory() as folder:
        port, log = free_port(), Path(folder) / "mongod.log"
        (Path(folder) / "data").mkdir()
        command = [str(find_server()), "--dbpath", f"{folder}/data", "--bind_ip", "127.0.0.1", "--port", str(port)]
        command += ["--replSet", "rs0", "--unixSocketPrefix", folder, "--wiredTigerCacheSizeGB", "0.25"]
        command += [word for item in QUICK_END.items() for word in ("--setParameter", "=".join(item))]
        with Guarded(command, log=log), Client("127.0.0.1", port, directConnection=True) as secondary:
            configuration = primary.admin.command("replSetGetConfig")["config"]
            configuration["version"] += 1
            configuration["members"].append({"_id": 1, "host": f"127.0.0.1:{port}", "priority": 0, "votes": 0})
            primary.admin.command("replSetReconfig", configuration)
            wait_until(lambda: secondary.admin.command("hello")["secondary"], 30)
            yield secondary


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


QUICK_END = {"enableTestCommands": "1", "shutdownTimeoutMillisForSignaledShutdown": "100"}


def test_reading_pauses_while_a_secondary_lags_and_then_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault is made up here but the one: the secondary stops applying what the primary wrote."""
    monkeypatch.setattr(pressure, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(pressure, "FIRST_NAP", 0.2)
    with (
        embedded_mongo(parameters=QUICK_END) as uri,
        Client(uri) as primary,
        second_member(primary) as secondary,
        connect(uri.replace("directConnection=true", "replicaSet=rs0&heartbeatFrequencyMS=500")) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        primary["d"]["c"].insert_many([{"_id": number} for number in range(300)])
        wait_until(lambda: bool(client.secondaries) and client["d"]["c"].count_documents({}) == 300, 20)
        moment = choose_moment(client, [("d", "c")])
        at = Settings(max_replication_lag=timedelta(seconds=2), max_cache_dirty=0, max_cache_used=0)
        health, direct = health_of(client), SourceHealth()
        paused, reading = Event(), None
        with fail_point(secondary, "rsSyncApplyStop"):

            def lag(health: SourceHealth, client: Client) -> timedelta:
                primary["d"]["c"].update_many({}, {"$inc": {"written": 1}})
                return health.look(client).lag or timedelta(0)

            wait_until(lambda: lag(health, client) >= 3 * SECOND and lag(direct, secondary) >= 2 * SECOND, 20)
            with pytest.raises(SourceUnderPressureError, match=r"a secondary is \d+ s behind"):
                Pace(client, at.model_copy(update={"max_pause": 0.3 * SECOND})).wait()
            reader = SnapshotReader(client, moment.cluster_time, 30 * SECOND, Pace(client, at, paused.set))
            [source] = moment.collections.values()
            reading = threads.submit(reader.count, source, {"written": {"$exists": False}})
            assert paused.wait(5)
            assert not reading.done()
        assert reading.result(20) == 300


def test_who_reads_from_the_primary_alone_does_not_care_for_secondaries(monkeypatch: pytest.MonkeyPatch) -> None:
    far_behind = [Member("RSPrimary", 100, 5000), Member("RSSecondary", 100, 1000)]
    for preference, lag in (("primary", None), ("primaryPreferred", None), ("nearest", 4000 * SECOND)):
        with connect(f"mongodb://127.0.0.1:1/?replicaSet=rs0&readPreference={preference}&connect=false") as client:
            known = SimpleNamespace(topology_type_name="ReplicaSetWithPrimary", known_servers=far_behind)
            monkeypatch.setattr(MongoClient, "topology_description", known)
            assert SourceHealth()._lag(client) == lag
