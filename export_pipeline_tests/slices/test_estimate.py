"""A dry run tells what an export would hold, and which queries no index serves; it leaves nothing behind."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import dagster as dg
import pytest
from click.testing import CliRunner, Result
from pymongo import MongoClient

from export_pipeline.catalog.narrowing import Narrowing
from export_pipeline.cli import main
from export_pipeline.definitions import build_defs
from export_pipeline.errors import BadInputError, UnknownAppError
from export_pipeline.exporter import Exporter
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline.slices.estimate import EstimatedCollection
from export_pipeline.slices.identity import NobodyFoundError, TooManyPeopleError
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.mongo.faults import failing

Client = MongoClient[dict[str, Any]]

CATALOG = """
version: 1
identity: {collection: "app_users{app_id}", uid: uid, merged_uids: merged_uid, device_ids: did, search: [email]}
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- {name: events, plugin: events, collection: "events{app_id}", user_key: to.uid, time_field: at, time_unit: date}
- {name: push, plugin: push, collection: "push_{app_id}", user_key: _id, portable: false}
- {name: pings, plugin: push, collection: "pings{app_id}", user_key: device, key_holds: device_id}
- {name: absent, plugin: push, collection: "absent{app_id}", user_key: uid}
"""


@pytest.fixture
def at(make_database: MakeDatabase, mongo_client: Client, tmp_path: Path) -> Settings:
    """An app "x" of which one collection has an index and one has not."""
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    events = [
        {"_id": n, "to": [{"uid": f"u{n % 5}"}, {"uid": f"u{n % 3}"}], "at": datetime(2026, 1, 1 + n % 28, tzinfo=UTC)}
        | {"text": "x" * (50 + n % 100)}
        for n in range(300)
    ]
    filled = make_database(
        {
            "app_usersx": [
                {"uid": "u0", "merged_uid": ["u4"], "did": "d0", "email": "u0@example.org"},
                *({"uid": f"u{n}", "did": f"d{n}", "email": "all@example.org"} for n in range(1, 4)),
            ],
            "eventsx": events,
            "push_x": [{"_id": f"u{n}"} for n in range(3)],
            "pingsx": [{"device": f"d{n % 3}"} for n in range(10)],
        }
    )
    mongo_client[filled.mongo_database]["app_usersx"].create_index("uid")
    mongo_client[filled.mongo_database]["pingsx"].create_index("device")
    return filled.model_copy(update={"catalog": tmp_path / "catalog.yaml"})


@pytest.fixture
def opened(at: Settings) -> Iterator[Exporter]:
    with Exporter(at) as exporter:
        yield exporter


# How much


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(NewRequest("x", ["u1"]), id="one user"),
        pytest.param(NewRequest("x", ["u4"]), id="merged"),
        pytest.param(NewRequest("x", ["u0", "u1", "u2", "u0"]), id="several users"),
        pytest.param(NewRequest("x", ["nobody"]), id="nobody"),
        pytest.param(NewRequest("x", person={"email": "all@example.org"}, max_users=3), id="by person"),
        pytest.param(NewRequest("x", ["u1"], narrowing=Narrowing(limit=3, sort={"events": ("-at",)})), id="limit"),
        pytest.param(NewRequest("x", ["u1"], narrowing=Narrowing(since=datetime(2026, 1, 20, tzinfo=UTC))), id="dates"),
        pytest.param(
            NewRequest("x", ["u1"], narrowing=Narrowing(where={"events": {"_id": {"$lt": 50}}})), id="conditions"
        ),
        pytest.param(NewRequest("x", ["u1"], narrowing=Narrowing(profile="portability")), id="profile"),
        pytest.param(NewRequest("x", ["u1"], narrowing=Narrowing(exclude_plugins=("push",))), id="part"),
    ],
)
def test_the_estimate_counts_what_the_export_then_holds(opened: Exporter, new: NewRequest) -> None:
    estimate = opened.estimate(new)
    manifest = opened.run_here(opened.submit(new, run_here=True))
    assert estimate.documents == manifest.totals.documents_written
    assert {item.collection: item.documents for item in estimate.collections} == {
        report.collection: report.documents_written for report in manifest.collections
    }
    assert estimate.people == len(manifest.users.uids)
    assert [item.name for item in estimate.collections if item.outcome == "absent"] == [
        report.name for report in manifest.collections if report.outcome == "absent"
    ]


def test_the_bytes_are_about_those_of_the_documents(opened: Exporter, mongo_client: Client) -> None:
    collection = mongo_client[opened.settings.mongo_database]["eventsx"]
    actual = sum(len(bson.encode(document)) for document in collection.find({"to.uid": "u1"}))
    events = of(opened, NewRequest("x", ["u1"]), "events")
    assert actual / 1.5 < events.bytes < actual * 1.5
    assert of(opened, NewRequest("x", ["nobody"]), "events").bytes == 0


def of(exporter: Exporter, new: NewRequest, name: str) -> EstimatedCollection:
    """The estimate for one collection."""
    return next(item for item in exporter.estimate(new).collections if item.name == name)


# Which index


def test_a_collection_without_an_index_is_flagged_with_the_one_to_create(
    opened: Exporter, mongo_client: Client
) -> None:
    new = NewRequest("x", ["u1"])
    estimate = opened.estimate(new)
    assert {item.name: item.full_scan for item in estimate.collections} == {
        "users": False,
        "events": True,
        "push": False,
        "pings": False,
        "absent": False,
    }
    [warning] = estimate.warnings
    assert warning.startswith("events: every document is read; create an index: db.eventsx.createIndex(")
    do_as_advised(warning, mongo_client[opened.settings.mongo_database])
    assert opened.estimate(new).warnings == ()


def do_as_advised(warning: str, database: Any) -> None:
    """Do what the warning says, as somebody would who pastes it into MongoDB's shell."""
    advice = re.search(r"db\.(\w+)\.createIndex\((.*)\)$", warning)
    assert advice is not None
    keys, *options = json.loads(f"[{advice[2]}]")
    database[advice[1]].create_index(keys.items(), **(options[0] if options else {}))


def test_an_index_that_the_export_cannot_use_is_none(opened: Exporter, mongo_client: Client) -> None:
    """Uids are compared byte for byte, and a collection's index follows the collection's collation."""
    database = mongo_client[opened.settings.mongo_database]
    database["absentx"].drop()
    database.create_collection("absentx", collation={"locale": "en", "strength": 1}).insert_many(
        [{"uid": f"u{n}"} for n in range(50)]
    )
    database["absentx"].create_index("uid")
    item = of(opened, NewRequest("x", ["u1"]), "absent")
    assert item.full_scan
    assert item.documents == 1
    do_as_advised(str(item.note), database)
    assert not of(opened, NewRequest("x", ["u1"]), "absent").full_scan


def test_a_hooks_full_scan_is_flagged_too(opened: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hook_of_estimate.py").write_text("def by_text(uids, app_id): return {'text': uids[0]}")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    hook = "hook_of_estimate:by_text"
    (tmp_path / "catalog.yaml").write_text(
        CATALOG.replace("user_key: to.uid, time_field: at, time_unit: date", f"hook: {hook}")
    )
    item = of(opened, NewRequest("x", ["u1"]), "events")
    assert item.full_scan
    assert item.note == "every document is read; create an index on the fields that the hook selects by"


# What cannot be told


def test_a_collection_that_cannot_be_counted_is_told_with_its_reason(opened: Exporter, mongo_client: Client) -> None:
    namespace = f"{opened.settings.mongo_database}.eventsx"
    with failing(mongo_client, "aggregate", errorCode=13, namespace=namespace):
        estimate = opened.estimate(NewRequest("x", ["u1"]))
    events = next(item for item in estimate.collections if item.name == "events")
    assert (events.outcome, events.documents) == ("failed", 0)
    (warning,) = estimate.warnings
    assert warning.startswith("events: eventsx: not authorized")
    assert f"needs the right 'find' on {namespace} " in warning


def test_counts_are_told_where_the_server_does_not_explain(opened: Exporter, mongo_client: Client) -> None:
    with failing(mongo_client, "explain", errorCode=13):
        events = of(opened, NewRequest("x", ["u1"]), "events")
    assert events.outcome == "present"
    assert events.documents > 0
    assert "not authorized" in str(events.note)


@pytest.mark.parametrize(
    ("new", "error"),
    [
        (NewRequest("nosuchapp", ["u1"]), UnknownAppError),
        (NewRequest("x", person={"email": "nobody@example.org"}), NobodyFoundError),
        (NewRequest("x", person={"email": "all@example.org"}), TooManyPeopleError),
        (NewRequest("x", person={"name": "u1"}), BadInputError),
        (NewRequest("x", ["u1"], "doc"), BadInputError),
        (NewRequest("x", ["u1"], narrowing=Narrowing(collections=("other",))), BadInputError),
    ],
)
def test_what_would_make_the_export_fail_makes_the_estimate_fail(
    opened: Exporter, new: NewRequest, error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        opened.estimate(new)
    assert type(raised.value) is error
    assert not opened.settings.home.exists()


# The dry run, on the command line and in Dagster

Run = Callable[..., Result]


@pytest.fixture
def run(at: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs the command line on the test's installation."""
    for name, value in {
        "DAGSTER_HOME": at.home,
        "EXPORT_PIPELINE_MONGO_URI": at.mongo_uri.get_secret_value(),
        "EXPORT_PIPELINE_MONGO_DATABASE": at.mongo_database,
        "EXPORT_PIPELINE_CATALOG": at.catalog,
    }.items():
        monkeypatch.setenv(name, str(value))

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


@pytest.mark.parametrize("command", ["export", "request"])
def test_a_dry_run_prints_the_estimate_and_stores_nothing(run: Run, opened: Exporter, command: str) -> None:
    result = run(command, "--app", "x", "--uid", "u1", "--dry-run")
    estimate = opened.estimate(NewRequest("x", ["u1"]))
    assert f"{estimate.documents:,} documents, about {estimate.bytes:,} bytes of BSON, of 1 people" in result.stdout
    rows = [line.split("│")[1:-1] for line in result.stdout.splitlines() if line.startswith("│")]
    assert {row[0].strip(): (row[1].strip(), row[4].strip()) for row in rows} == {
        "app_usersx": ("present", "yes"),
        "eventsx": ("present", "none: a full scan"),
        "push_x": ("present", "yes"),
        "pingsx": ("present", "yes"),
        "absentx": ("absent", ""),
    }
    assert result.stderr == f"warning: {estimate.warnings[0]}\n"
    assert json.loads(run(command, "--app", "x", "--uid", "u1", "--dry-run", "--json").stdout) == json.loads(
        estimate.model_dump_json()
    )
    assert not opened.settings.home.exists()
    assert opened.requests.latest() == []


def test_a_dry_run_writes_no_output_file(run: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    run("export", "--app", "x", "--uid", "u1", "--output", str(tmp_path / "me.json"), "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_several_apps_tells_of_each_or_of_what_is_wrong(run: Run) -> None:
    said = run("request", "--app", "x", "--app", "x", "--uid", "u1", "--dry-run", "--json").stdout
    assert [json.loads(line)["people"] for line in said.splitlines()] == [1, 1]
    result = run("request", "--app", "x", "--app", "nosuchapp", "--uid", "u1", "--dry-run", exit_code=2)
    assert result.stderr.splitlines()[-1].startswith("error: no collection of the catalogue exists for app nosuchapp")


def test_a_dry_run_that_finds_nobody_or_too_many_says_so(run: Run) -> None:
    nobody = run("export", "--app", "x", "--person", '{"email": "nobody@example.org"}', "--dry-run", exit_code=2)
    assert nobody.stderr == "error: the filter matches nobody in this app\n"
    many = run("export", "--app", "x", "--person", '{"email": "all@example.org"}', "--dry-run", exit_code=2)
    assert "matches 3 people, and the request allows 1" in many.stderr


def test_an_export_needs_an_output_unless_it_is_a_dry_run(run: Run, opened: Exporter) -> None:
    assert run("export", "--app", "x", "--uid", "u1", exit_code=2).stderr == "error: --output: name the file to write\n"
    assert opened.requests.latest() == []


def ask(at: Settings, **config: Any) -> dg.ExecuteInProcessResult:
    job = build_defs(at).resolve_job_def("request_export")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            instance=instance,
            run_config={"ops": {"submit_request": {"config": {**config, "dry_run": True}}}},
            raise_on_error=False,
        )


def test_a_dry_run_in_dagster_gives_the_estimate_as_metadata(at: Settings, opened: Exporter) -> None:
    result = ask(at, app_id="x", uids=["u1"])
    assert result.success
    [output] = result.filter_events(lambda event: event.is_successful_output)
    metadata: dict[str, Any] = {name: value.value for name, value in output.step_output_data.metadata.items()}
    estimate = opened.estimate(NewRequest("x", ["u1"]))
    assert metadata["documents"] == estimate.documents
    assert metadata["bytes_about"] == estimate.bytes
    assert metadata["warnings"] == f"- {estimate.warnings[0]}"
    table = output.step_output_data.metadata["collections"]
    assert isinstance(table, dg.TableMetadataValue)
    rows = {record.data["collection"]: record.data for record in table.records}
    assert rows["eventsx"]["full_scan"] is True
    assert rows["absentx"]["outcome"] == "absent"
    assert opened.requests.latest() == []
    assert not list(opened.settings.home.rglob("*.json"))


def test_a_dry_run_in_dagster_of_what_would_fail_fails(at: Settings, opened: Exporter) -> None:
    result = ask(at, app_id="nosuchapp", uids=["u1"])
    assert not result.success
    [event] = result.filter_events(lambda event: event.is_step_failure)
    assert "unknown_app: no collection of the catalogue exists" in str(event.step_failure_data.user_failure_data)
    assert opened.requests.latest() == []
