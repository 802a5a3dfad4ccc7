"""What other exporters are known to get wrong (field notes, "What rivals get wrong"): here, each goes right.

Waiting for the HTTP API: paging through requests (Passwordless), an unknown id that answers 200 with an empty list
(Countly; here as far as the command line goes), and the id of another's task that opens their export (Countly; here
as far as Dagster's form goes). How flat memory stays with a gigabyte is measured by ``bench export``.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bson
import dagster as dg
import pytest
from bson import Binary, Code, DatetimeMS, DBRef, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from bson.decimal128 import Decimal128
from bson.raw_bson import RawBSONDocument
from click.testing import CliRunner, Result
from pyarrow import parquet
from pymongo import MongoClient, monitoring

from export_pipeline.catalog.narrowing import parse_narrowing
from export_pipeline.cli import main
from export_pipeline.definitions import build_defs
from export_pipeline.errors import BadInputError, IncompleteError, StorageError, UnknownAppError, UnknownRequestError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration import reconciling
from export_pipeline.orchestration.reconciling import request_reconciler
from export_pipeline.packages.assemble import CollectionUnreadableError
from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import LONGEST_UID, NewRequest
from export_pipeline.settings import Settings
from export_pipeline.slices.ownership import UIDS_PER_QUERY
from export_pipeline.slices.slice_file import data_key
from export_pipeline.steps import packaging
from export_pipeline.storage import DirectoryStorage
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.mongo.faults import failing

Client = MongoClient[dict[str, Any]]

CATALOG = """
version: 1
identity: {collection: "people{app_id}", uid: uid, merged_uids: merged, search: [email]}
collections:
- {name: people, plugin: users, collection: "people{app_id}", user_key: uid}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid}
- {name: absent, plugin: events, collection: "evnets{app_id}", user_key: uid}
"""

CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    datetime_conversion=bson.codec_options.DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="strict",
)

Open = Callable[..., Exporter]


@pytest.fixture
def open_app(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Open]:
    """Return a function that fills the app "x" and opens an installation for it."""
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    opened: list[Exporter] = []

    def open_(people: list[Any] | None = None, events: list[Any] | None = None, **settings: Any) -> Exporter:
        people = [{"_id": 1, "uid": "a"}, {"_id": 2, "uid": "b"}] if people is None else people
        events = [{"_id": n, "uid": "ab"[n % 2], "n": n} for n in range(10)] if events is None else events
        filled = make_database({"peoplex": people, "eventsx": events})
        opened.append(Exporter(filled.model_copy(update={"catalog": tmp_path / "catalog.yaml", **settings})))
        return opened[-1]

    yield open_
    for exporter in opened:
        exporter.close()


@pytest.fixture
def app(open_app: Open) -> Exporter:
    """Two people with five events each."""
    return open_app()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster that forgets all when the test ends."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def run(app: Exporter, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the command line on that installation."""
    for name, value in environment(app.settings).items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(main, arguments)


def environment(settings: Settings) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DAGSTER_HOME": str(settings.home),
        "EXPORT_PIPELINE_MONGO_URI": settings.mongo_uri.get_secret_value(),
        "EXPORT_PIPELINE_MONGO_DATABASE": settings.mongo_database,
        "EXPORT_PIPELINE_CATALOG": str(settings.catalog),
    }


def export(exporter: Exporter, output: Path | None = None, **asks: Any) -> Manifest:
    new = NewRequest(**{"app_id": "x", **({} if "person" in asks else {"uids": ["a"]}), **asks})
    return exporter.run_here(exporter.submit(new, run_here=True), output)


def in_one_batch(exporter: Exporter, *wanted: NewRequest) -> list[str]:
    """Run these requests in one batch; return their Export IDs."""
    batch = Batch(new_id(), tuple(exporter.submit(new).id for new in wanted))
    exporter.requests.claim(batch)
    plan = exporter.plan(batch.id)
    for entry in exporter.catalog.entries:
        exporter.read_slice(plan, entry.name)
    list(exporter.package(plan))
    exporter.discard_slices(batch.id)
    return list(batch.request_ids)


def reconcile_for_a_while(exporter: Exporter, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reconciler tick for as long as a dead worker goes unnoticed."""
    ticks = itertools.count(step=30)
    monkeypatch.setattr(reconciling, "monotonic", lambda: next(ticks))
    cursor = None
    for _ in range(4):
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        result: Any = request_reconciler(context, exporter=exporter)
        cursor = result.cursor


def ids_in(file: Path | str | None) -> list[Any]:
    return sorted(document["_id"] for document in json.loads(Path(str(file)).read_bytes()))


def files_of(exporter: Exporter) -> list[str]:
    """All that lies in the storage, also what was only begun."""
    root = Path(exporter.settings.storage_root)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


class Commands(monitoring.CommandListener):
    """Every command that was sent, and how many bytes it had."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.sizes: list[int] = []

    def finds(self, collection: str) -> list[dict[str, Any]]:
        """The finds in a collection, but for the one that only asks which moment it is."""
        finds = [command for name, command in self.sent if name == "find" and command["find"] == collection]
        return [command for command in finds if command["filter"]]

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in ("find", "aggregate", "getMore"):
            self.sent.append((event.command_name, dict(event.command)))
            self.sizes.append(len(bson.encode(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to be done."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to be done."""


@pytest.fixture
def commands(app: Exporter) -> Iterator[Commands]:
    """What the installation sends to its MongoDB."""
    listener = Commands()
    uri = app.settings.mongo_uri.get_secret_value()
    with MongoClient[dict[str, Any]](
        uri, event_listeners=[listener], appname="export_pipeline", tz_aware=True
    ) as client:
        app.client = client  # a cached property that nothing has opened yet
        yield listener


# Countly


@pytest.mark.parametrize("command", ["find", "aggregate"])
def test_countly_an_aggregation_that_fails_is_logged_and_called_a_success(
    app: Exporter, mongo_client: Client, tmp_path: Path, command: str
) -> None:
    namespace = f"{app.settings.mongo_database}.eventsx"
    with (
        failing(mongo_client, command, errorCode=96, namespace=namespace),
        pytest.raises(CollectionUnreadableError, match=r"^events: eventsx: MongoDB refused the read"),
    ):
        export(app, tmp_path / "me.json")
    (row,) = app.requests.latest()
    assert (row.status, row.error_code, row.result_uri) == ("failed", "collection_unreadable", None)
    assert not list(tmp_path.glob("me.*"))
    assert files_of(app) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--uid=a", "--where=events={n: 1}"],
        ["--uid=a", '--where=events={"n": '],
        ["--uid=a", "--where=events="],
        ["--uid=a", '--where=events={"n": {"$matches": 1}}'],
        ["--uid=a", '--where=evnets={"n": 1}'],
        ["--uid=a", "--since="],
        ["--uid=a", "--since=20260131"],
        ["--uid=a", "--collection="],
        ["--person={email: 1}"],
        ["--person="],
        ["--person={}"],
        ["--person=null"],
        ["--person=[]"],
        [],
    ],
)
def test_countly_a_query_that_does_not_parse_becomes_the_whole_collection(
    run: Callable[..., Result], app: Exporter, tmp_path: Path, arguments: list[str]
) -> None:
    result = run("export", "--app=x", *arguments, f"--output={tmp_path / 'me.json'}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "me.json").exists()
    assert app.requests.latest() == []


def test_countly_all_uids_are_gathered_into_one_document(app: Exporter, commands: Commands, tmp_path: Path) -> None:
    """Of the longest uids there may be, of four bytes each character, 16 MB hold some 8,000, and one query 5,000."""
    uids = [f"{number:05}".ljust(LONGEST_UID, "\U0001f600") for number in range(UIDS_PER_QUERY + 10)]
    database = app.client[app.settings.mongo_database]
    database["eventsx"].insert_many([{"_id": f"e{number}", "uid": uid} for number, uid in enumerate(uids[::500])])
    database["peoplex"].insert_one({"_id": 3, "uid": uids[7], "merged": ["b"]})
    manifest = export(app, tmp_path / "all.json", uids=uids)
    assert sum(len(uid.encode()) for uid in uids) > 10_000_000
    assert manifest.users.merged_uids == ("b",)
    own = [3, 2, *(f"e{number}" for number in range(len(uids[::500]))), *range(1, 10, 2)]
    assert sorted(map(str, ids_in_any(tmp_path / "all.json"))) == sorted(map(str, own))
    assert max(commands.sizes) < 12_000_000
    assert len(commands.finds("eventsx")) == 2


def ids_in_any(file: Path) -> list[Any]:
    return [document["_id"] for document in json.loads(file.read_bytes())]


EVERY_TYPE: dict[str, Any] = {
    "double": 1.0,
    "nan": float("nan"),
    "minus_zero": -0.0,
    "string": "é\0\u2028",
    "object": {"a": {"b": "2023-11-14T22:13:20Z"}},
    "array": [1, [Int64(1), 1.0]],
    "binary": Binary(b"\0\1", 4),
    "oid": ObjectId("0123456789abcdef01234567"),
    "true": True,
    "date": DatetimeMS(1_700_000_000_123),
    "far_date": DatetimeMS(2**60),
    "null": None,
    "regex": Regex("a.*", "im"),
    "code": Code("f()"),
    "code_with_scope": Code("f()", {"a": 1}),
    "int32": 1,
    "timestamp": Timestamp(1, 2),
    "int64": Int64(1),
    "large": Int64(2**63 - 1),
    "decimal": Decimal128("1.0E+3"),
    "min": MinKey(),
    "max": MaxKey(),
    "ref": DBRef("c", 1),
}


@pytest.mark.parametrize("format_", ["json", "jsonl", "parquet"])
def test_countly_plain_json_loses_bson_types(open_app: Open, tmp_path: Path, format_: str) -> None:
    stored = bson.encode({"_id": Int64(7), "uid": "a", **EVERY_TYPE})
    exporter = open_app(people=[], events=[RawBSONDocument(stored)])
    output = tmp_path / "me"
    export(exporter, output, format=format_, json_mode="canonical")
    if format_ == "parquet":
        (text,) = parquet.read_table(output).column("_doc").to_pylist()
        document = json.loads(text)
    else:
        document = json.loads(output.read_bytes() if format_ == "jsonl" else output.read_bytes()[1:-2])
        assert document.pop("_col") == "eventsx"
    assert bson.encode(json_util.loads(json.dumps(document), json_options=CANONICAL)) == stored


def test_countly_an_export_stays_for_ever(open_app: Open, instance: dg.DagsterInstance) -> None:
    exporter = open_app(retention=timedelta(milliseconds=1))
    export(exporter)
    (row,) = exporter.requests.latest()
    assert [Path(file).name for file in files_of(exporter)] == ["export.json", "manifest.json"]
    exporter.client[exporter.settings.mongo_database]["peoplex"].delete_one({"uid": "a"})
    expire(exporter, instance)
    assert files_of(exporter) == []
    assert exporter.requests.get(row.id).status == "expired"
    with pytest.raises(BadInputError, match="is expired; only a completed one can be downloaded"):
        exporter.download(exporter.requests.get(row.id))


def test_countly_an_export_stays_for_ever_where_its_removal_failed_once(
    open_app: Open, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = open_app(retention=timedelta(milliseconds=1))
    export(exporter)
    (row,) = exporter.requests.latest()
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStorage, "delete", broken)
        assert not expire(exporter, instance)
    assert exporter.requests.get(row.id).status == "completed", "so that it is tried again"
    assert expire(exporter, instance)
    assert files_of(exporter) == []


def expire(exporter: Exporter, instance: dg.DagsterInstance) -> bool:
    job = build_defs(exporter.settings).resolve_job_def("expire_packages")
    return job.execute_in_process(instance=instance, raise_on_error=False).success


def broken(*_: Any) -> None:
    raise StorageError("the disk is read-only at the moment")


@pytest.mark.parametrize("command", ["download", "status"])
def test_countly_an_unknown_id_is_an_empty_list(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for export_id in (new_id(), "nope", "[]", "\udcff"):
        result = run(command, "--", export_id)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: no request has this Export ID")
    assert list((tmp_path / "here").iterdir()) == []


def test_countly_a_second_request_for_the_same_user_doubles_the_rows(app: Exporter, tmp_path: Path) -> None:
    own = [0, 1, 2, 4, 6, 8]
    for number in range(2):
        export(app, tmp_path / "me.json", uids=["a", "a"])
        assert ids_in(tmp_path / "me.json") == own, number
    requests = [NewRequest("x", ["a"]), NewRequest("x", ["a", "a"]), NewRequest("x", ["a"], "jsonl")]
    first, second, third = in_one_batch(app, *requests)
    assert [ids_in(app.requests.get(export_id).result_uri) for export_id in (first, second)] == [own, own]
    assert app.requests.get(third).documents_done == len(own)


def test_countly_the_id_of_somebody_elses_task_opens_their_export(app: Exporter, instance: dg.DagsterInstance) -> None:
    request_id = in_one_batch(app, NewRequest("x", ["a"]))[0]
    job = build_defs(app.settings).resolve_job_def("request_export")
    config = {"ops": {"submit_request": {"config": {"app_id": "y", "export_id": request_id}}}}
    result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    assert not result.success
    with pytest.raises(UnknownRequestError):
        app.requests.get(request_id[:-1])
    ids = {new_id() for _ in range(1000)}
    assert len({export_id[-12:] for export_id in ids}) == 1000, "one id does not give away the next"


# Passwordless


def test_passwordless_a_job_left_running_by_a_crash_blocks_its_tenant(
    app: Exporter, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = app.submit(NewRequest("x", ["a"]))
    app.requests.claim(batch := Batch(new_id(), (left.id,)))
    app.requests.attach_run(batch.id, new_id())  # a run that Dagster does not know any more
    export(app, tmp_path / "me.json")
    (other,) = in_one_batch(app, NewRequest("x", ["a"], "jsonl"))
    assert app.requests.get(other).status == "completed"
    reconcile_for_a_while(app, instance, monkeypatch)
    row = app.requests.get(left.id)
    assert (row.status, row.error_code) == ("pending", "run_lost")
    app.requests.claim(again := Batch(new_id(), (left.id,)))
    plan = app.plan(again.id)
    for entry in app.catalog.entries:
        app.read_slice(plan, entry.name)
    (outcome,) = app.package(plan)
    assert outcome.error is None


def test_passwordless_and_fides_the_whole_of_it_is_held_in_memory(
    open_app: Open, mongo_client: Client, tmp_path: Path
) -> None:
    """Three times as much takes no more memory; at full size in ``bench export``."""
    exporter = open_app()
    collection = mongo_client[exporter.settings.mongo_database]["eventsx"]
    padding = "x" * 64_000

    def peak(documents: int) -> int:
        collection.delete_many({})
        for start in range(0, documents, 200):
            collection.insert_many([{"_id": start + n, "uid": "a", "padding": padding} for n in range(200)])
        tracemalloc.start()
        try:
            manifest = export(exporter, tmp_path / "me.json")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert manifest.file.bytes > documents * 64_000

    assert peak(1200) - peak(400) < 16_000_000


def test_passwordless_there_is_no_order(app: Exporter, tmp_path: Path) -> None:
    app.client[app.settings.mongo_database]["eventsx"].insert_one({"_id": -1, "uid": "a", "n": 5})
    export(app, tmp_path / "me.json", narrowing=parse_narrowing({"sort": {"events": ["-n"]}, "limit": 4}))
    documents = json.loads((tmp_path / "me.json").read_bytes())
    assert [(document["_col"], document["_id"]) for document in documents] == [
        ("peoplex", 1),
        *(("eventsx", number) for number in (8, 6, -1, 4)),
    ]


def test_passwordless_there_is_no_download(run: Callable[..., Result], app: Exporter, tmp_path: Path) -> None:
    (export_id,) = in_one_batch(app, NewRequest("x", ["a"]))
    result = run("download", export_id, f"--output={tmp_path / 'me.json'}")
    assert result.exit_code == 0
    assert ids_in(tmp_path / "me.json") == [0, 1, 2, 4, 6, 8]
    assert verify_package(tmp_path / "me.json").request_id == export_id


# Fides


def test_fides_fields_that_nobody_declared_are_dropped(open_app: Open, tmp_path: Path) -> None:
    odd = {"_id": 1, "uid": "a", "never declared": 1, "deep": {"er": [{"still": 1}]}, "": 0, "a.b": 1, "__proto__": 1}
    exporter = open_app(people=[odd], events=[])
    export(exporter, tmp_path / "me.json")
    (document,) = json.loads((tmp_path / "me.json").read_bytes())
    assert document == {"_col": "peoplex", **odd}
    assert list(document) == ["_col", *odd], "in their order"


@pytest.mark.parametrize("mode", ["relaxed", "canonical"])
def test_fides_dates_are_cut_to_seconds(open_app: Open, tmp_path: Path, mode: str) -> None:
    moments = [1_700_000_000_123, 999, -1, -62_135_596_800_001, 253_402_300_800_000]
    exporter = open_app(
        people=[{"_id": n, "uid": "a", "at": DatetimeMS(at)} for n, at in enumerate(moments)], events=[]
    )
    export(exporter, tmp_path / "me.json", json_mode=mode)
    read = json_util.loads((tmp_path / "me.json").read_text(), json_options=CANONICAL)
    assert [int(document["at"]) for document in read] == moments
    if mode == "relaxed":
        assert '"at":{"$date":"2023-11-14T22:13:20.123Z"}' in (tmp_path / "me.json").read_text()


def test_fides_a_failed_request_keeps_personal_data_in_staging(
    app: Exporter, mongo_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = f"{app.settings.mongo_database}.eventsx"
    with failing(mongo_client, "find", errorCode=96, namespace=namespace), pytest.raises(CollectionUnreadableError):
        export(app)
    assert files_of(app) == []
    with monkeypatch.context() as patch:
        patch.setattr(type(app), "package", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(app)
    assert files_of(app) == []
    with pytest.raises(UnknownAppError):
        export(app, app_id="y")
    assert files_of(app) == []
    assert {row.status for row in app.requests.latest()} == {"failed"}


@pytest.mark.parametrize("refused", ["create", "commit"])
@pytest.mark.parametrize("local", [True, False])
def test_fides_a_failed_request_keeps_personal_data_in_a_file_without_its_seal(
    app: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool, refused: str
) -> None:
    """The package is written, and then its manifest cannot be."""
    output = tmp_path / "out" / "me.json" if local else None
    if refused == "commit":
        renamed = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if "manifest.json" in target.name:
                raise OSError(28, "No space left on device")
            return renamed(self, target)

        monkeypatch.setattr(Path, "rename", rename)
    else:
        opened = os.open

        def open_(path: Any, *arguments: Any, **named: Any) -> int:
            if "manifest.json" in str(path):
                raise OSError(28, "No space left on device")
            return opened(path, *arguments, **named)

        monkeypatch.setattr(os, "open", open_)
    with pytest.raises(StorageError, match="no space left on device"):
        export(app, output)
    assert app.requests.latest()[0].error_code == "storage"
    assert files_of(app) == []
    if local and refused == "create":
        assert list((tmp_path / "out").iterdir()) == []


def test_fides_a_killed_process_leaves_personal_data_in_staging(
    app: Exporter,
    mongo_client: Client,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Also Mastodon's fault: a process that is killed cannot say that its export will never finish."""
    namespace = f"{app.settings.mongo_database}.eventsx"
    command = [sys.executable, "-m", "export_pipeline", "export", "--app", "x", "--uid", "a", "--output", "me.json"]
    with (
        failing(mongo_client, "find", blockConnection=True, blockTimeMS=1500, namespace=namespace),
        subprocess.Popen(command, env=environment(app.settings), cwd=tmp_path) as process,
    ):
        deadline = time.monotonic() + 30
        while not any(file.endswith("people.json") for file in files_of(app)) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    (row,) = app.requests.latest()
    assert row.status == "running"
    assert any(file.startswith(f"slices/{row.batch_id}/") for file in files_of(app))
    request_reconciler(dg.build_sensor_context(instance=instance), exporter=app)
    assert app.requests.get(row.id).status == "running", "it may still be at work"
    folder = Path(app.settings.storage_root, "exports", "x", row.id)
    folder.mkdir(parents=True)
    (folder / ".export.json.0.partial").write_text("half of a package")
    reconcile_for_a_while(app, instance, monkeypatch)
    assert app.requests.get(row.id).error_code == "run_lost"
    assert files_of(app) == []
    assert not (tmp_path / "me.json").exists()


# mongoexport


def test_mongoexport_a_wrong_collection_is_an_export_of_nothing(app: Exporter, tmp_path: Path) -> None:
    app.client[app.settings.mongo_database]["eventsx"].delete_many({"uid": "a"})
    manifest = export(app, tmp_path / "me.json")
    assert {report.name: report.outcome for report in manifest.collections} == {
        "people": "exported",
        "events": "empty",
        "absent": "absent",
    }


def test_mongoexport_a_wrong_database_is_an_export_of_nothing(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("export", "--app=nosuchapp", "--uid=a", f"--output={tmp_path / 'me.json'}")
    assert result.exit_code == 2
    assert "no collection of the catalogue exists for app nosuchapp" in result.stderr
    assert not (tmp_path / "me.json").exists()


@pytest.mark.parametrize("format_", ["json", "jsonl", "parquet"])
def test_mongoexport_documents_with_empty_field_names_are_skipped(open_app: Open, tmp_path: Path, format_: str) -> None:
    documents = [{"_id": 1, "uid": "a", "": 1}, {"_id": 2, "uid": "a", "deep": {"": {"": [{"": None}]}}}]
    exporter = open_app(people=[], events=documents)
    manifest = export(exporter, tmp_path / "me", format=format_)
    assert manifest.totals.documents_written == 2
    if format_ == "json":
        found = json.loads((tmp_path / "me").read_bytes())
        assert found == [{"_col": "eventsx", **document} for document in documents]


# dlt and singer


def test_dlt_paging_by_skip_is_quadratic(
    app: Exporter, mongo_client: Client, commands: Commands, tmp_path: Path
) -> None:
    mongo_client[app.settings.mongo_database]["eventsx"].insert_many(
        [{"_id": number, "uid": "a", "padding": "x" * 1000} for number in range(100, 30_000)]
    )
    manifest = export(app, tmp_path / "me.jsonl", format="jsonl")
    assert manifest.totals.documents_written == 29_906
    assert not any("skip" in command for _, command in commands.sent)
    assert len(commands.finds("eventsx")) == 1, "one cursor, from its beginning to its end"
    assert sum(name == "getMore" for name, _ in commands.sent) >= 2


MIXED_IDS = [
    *(MinKey(), None, -5, 0.5, Int64(2**62), Decimal128("7.5"), "", "text", {"a": 1}, Binary(b"id"), Binary(b"id", 4)),
    *(ObjectId("0" * 24), False, True, DatetimeMS(5), Timestamp(1, 2), MaxKey(), float("nan"), float("-inf")),
]


@pytest.mark.parametrize("sorted_by", [None, "_id", "-_id", "n"])
def test_singer_ids_of_mixed_types_are_dropped(open_app: Open, tmp_path: Path, sorted_by: str | None) -> None:
    documents = [{"_id": value, "uid": "a", "n": number} for number, value in enumerate(MIXED_IDS)]
    exporter = open_app(people=[], events=documents)
    narrowing = parse_narrowing({"sort": {"events": [sorted_by]}} if sorted_by else {})
    manifest = export(exporter, tmp_path / "me.jsonl", format="jsonl", json_mode="canonical", narrowing=narrowing)
    found = [int(json.loads(line)["n"]["$numberInt"]) for line in (tmp_path / "me.jsonl").read_text().splitlines()]
    assert sorted(found) == list(range(len(MIXED_IDS)))
    assert manifest.totals.documents_written == len(MIXED_IDS)
    if sorted_by:
        direction = -1 if sorted_by.startswith("-") else 1
        plain = exporter.client[exporter.settings.mongo_database]["eventsx"].find({}, {"n": 1, "_id": 0})
        assert found == [document["n"] for document in plain.sort(sorted_by.removeprefix("-"), direction)]


# Rocket.Chat and Mastodon


@pytest.mark.parametrize("step", ["plan", "read_slice", "package"])
@pytest.mark.parametrize(
    ("ending", "code"), [(KeyboardInterrupt, "interrupted"), (SystemExit, "interrupted"), (MemoryError, "interrupted")]
)
def test_rocketchat_an_export_never_finishes_and_never_says_so(
    app: Exporter, monkeypatch: pytest.MonkeyPatch, step: str, ending: type[BaseException], code: str
) -> None:
    def end(*_: Any, **__: Any) -> None:
        raise ending

    monkeypatch.setattr(type(app), step, end)
    with pytest.raises(ending):
        export(app)
    (row,) = app.requests.latest()
    assert (row.status, row.error_code) == ("failed", code)
    assert row.finished_at is not None
    assert files_of(app) == []


def test_rocketchat_a_surprise_while_packaging_ends_the_request_and_spares_its_neighbours(
    app: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assemble: Any = vars(packaging)["assemble"]

    def stumble(storage: Any, catalog: Any, plan: Any, request: Any, *others: Any) -> Any:
        if request.selection["uids"] == ["a"]:
            raise RecursionError("a value of theirs")
        return assemble(storage, catalog, plan, request, *others)

    monkeypatch.setattr(packaging, "assemble", stumble)
    ids = in_one_batch(app, NewRequest("x", ["a"]), NewRequest("x", ["b"]))
    first, second = (app.requests.get(request_id) for request_id in ids)
    assert (first.status, first.error_code, second.status) == ("failed", "internal", "completed")
    assert "a value of theirs" not in str(first.error_message)


def test_mastodon_an_archive_that_lacks_a_part_says_that_it_is_whole(app: Exporter) -> None:
    request = app.submit(NewRequest("x", ["a"]), run_here=True)
    plan = app.plan(str(request.batch_id))
    for entry in app.catalog.entries:
        app.read_slice(plan, entry.name)
    app.storage.delete(data_key(plan.batch_id, "events"))
    (outcome,) = app.package(plan)
    assert outcome.error is not None
    assert app.requests.get(request.id).status == "failed"
    app.discard_slices(plan.batch_id)
    assert files_of(app) == []


@pytest.mark.parametrize("cover_up", ["nothing", "the file's hash", "the file's hash and the count of all"])
def test_mastodon_a_part_that_went_missing_later_is_not_noticed(
    app: Exporter, run: Callable[..., Result], tmp_path: Path, cover_up: str
) -> None:
    package = tmp_path / "me.jsonl"
    export(app, package, format="jsonl")
    assert verify_package(package).totals.documents_written == 6
    kept = b"".join(line for line in package.read_bytes().splitlines(keepends=True) if b"eventsx" not in line)
    package.write_bytes(kept)
    seal = tmp_path / "me.jsonl.manifest.json"
    manifest = json.loads(seal.read_bytes())
    if cover_up != "nothing":
        manifest["file"] |= {"bytes": len(kept), "sha256": hashlib.sha256(kept).hexdigest()}
    if cover_up.endswith("all"):
        manifest["totals"] |= {"documents_expected": 1, "documents_written": 1}
    seal.write_text(json.dumps(manifest))
    with pytest.raises(IncompleteError):
        verify_package(package)
    result = run("verify", str(package))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")


def test_mastodon_nothing_is_published_that_was_not_read_back(
    app: Exporter, tmp_path: Path, mongo_client: Client
) -> None:
    """A document that vanishes between the count and the read is an error, though the snapshot forbids it."""
    request = app.submit(NewRequest("x", ["a"]), run_here=True)
    plan = app.plan(str(request.batch_id))
    plan = plan.model_copy(update={"cluster_time": None})  # as on a server without history
    mongo_client[app.settings.mongo_database]["eventsx"].delete_one({"_id": 4})
    for entry in app.catalog.entries:
        app.read_slice(plan, entry.name)
    (outcome,) = app.package(plan, tmp_path / "me.json")
    assert "events: the server counted 5 documents at the chosen moment, 4 were read; retry" in str(outcome.error)
    assert not (tmp_path / "me.json").exists()
