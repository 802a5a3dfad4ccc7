"""The command line, as a person or a script calls it: what it prints, what it writes, and its exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from export_pipeline.cli import main
from export_pipeline.cli.catalog import catalog
from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command line on the test's installation."""
    monkeypatch.setenv("DAGSTER_HOME", str(settings.home))
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_URI", settings.mongo_uri.get_secret_value())

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


def test_export_writes_one_tagged_file_and_its_manifest(run: Any, demo: DemoData, tmp_path: Path) -> None:
    output = tmp_path / "all about me.json"
    result = run("export", "--app", demo.app_ids[0], "--uid", demo.small_uid, "--output", str(output))
    documents = json.loads(output.read_bytes())
    manifest = json.loads((tmp_path / "all about me.json.manifest.json").read_bytes())
    assert len(documents) == manifest["totals"]["documents_written"] == 246
    assert documents[0]["_col"] == f"app_users{demo.app_ids[0]}"
    assert "246 documents" in result.stdout


def test_export_with_json_prints_the_manifest_alone(run: Any, demo: DemoData, tmp_path: Path) -> None:
    output = tmp_path / "me.jsonl"
    result = run(
        *("export", "--app", demo.app_ids[0], "--uid", demo.small_uid, "--format", "jsonl", "--json-mode", "canonical"),
        *("--output", str(output), "--json"),
    )
    assert json.loads(result.stdout)["file"]["bytes"] == output.stat().st_size


def test_several_uids_go_into_one_file(run: Any, demo: DemoData, tmp_path: Path) -> None:
    output = tmp_path / "both.json"
    both = ("--uid", demo.small_uid, "--uid", demo.merged_uid)
    run("export", "--app", demo.app_ids[0], *both, "--output", str(output), "--json")
    users = [item["uid"] for item in json.loads(output.read_bytes()) if item["_col"] == f"app_users{demo.app_ids[0]}"]
    assert sorted(users) == sorted([demo.small_uid, demo.merged_uid])


def test_a_user_without_data_gets_an_empty_array(run: Any, demo: DemoData, tmp_path: Path) -> None:
    output = tmp_path / "nobody.json"
    result = run("export", "--app", demo.app_ids[0], "--uid", demo.empty_uid, "--output", str(output), "--json")
    assert json.loads(output.read_bytes()) == []
    manifest = json.loads(result.stdout)
    assert {report["outcome"] for report in manifest["collections"]} == {"empty"}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["--app", "nosuchapp"], 2, "no collection of the catalogue exists for app nosuchapp"),
        (["--app", "../etc"], 2, "app id: expected 1 to 64 letters"),
        (["--format", "doc"], 2, "format: 'doc' is unknown; known are json, jsonl, parquet"),
        (["--json-mode", "odd"], 2, "json mode: 'odd' is unknown"),
        (["--uid", ""], 2, "uids: number 2 must have 1 to 512 characters"),
        (["--output", "/proc/no/such/folder/me.json"], 1, "/proc/no/such/folder/me.json"),
    ],
)
def test_bad_input_is_one_clear_line(
    run: Any, demo: DemoData, tmp_path: Path, arguments: list[str], exit_code: int, says: str
) -> None:
    fine = ["--app", demo.app_ids[0], "--uid", demo.small_uid, "--output", str(tmp_path / "me.json")]
    result = run("export", *fine, *arguments, exit_code=exit_code)
    assert says in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("me.*"))


def test_request_prints_the_export_id_and_status_follows_it(run: Any, demo: DemoData) -> None:
    export_id = run("request", "--app", demo.app_ids[0], "--uid", "a-uid-to-be-kept-quiet").stdout.strip()
    row = json.loads(run("status", export_id, "--json").stdout)
    assert (row["id"], row["status"]) == (export_id, "pending")
    assert "a-uid-to-be-kept-quiet" not in json.dumps(row)
    assert export_id in run("status").stdout
    assert "pending" in run("status", export_id).stdout
    assert [item["id"] for item in json.loads(run("status", "--json").stdout)] == [export_id]


def test_an_unknown_export_id_is_bad_usage(run: Any) -> None:
    assert "no request has this Export ID" in run("status", "nope", exit_code=2).stderr


def test_download_copies_the_package_out_of_the_storage(
    run: Any, exporter: Exporter, demo: DemoData, tmp_path: Path
) -> None:
    row = exporter.submit(NewRequest(demo.app_ids[0], [demo.small_uid]), run_here=True)
    assert "is running; only a completed one" in run("download", row.id, exit_code=2).stderr
    manifest = exporter.run_here(row)
    copy = tmp_path / "copy.json"
    assert run("download", row.id, "--output", str(copy)).stdout.strip() == str(copy)
    assert copy.stat().st_size == manifest.file.bytes
    assert (tmp_path / "copy.json.manifest.json").exists()


def test_download_refuses_a_package_that_was_changed(
    run: Any, exporter: Exporter, demo: DemoData, tmp_path: Path
) -> None:
    row = exporter.submit(NewRequest(demo.app_ids[0], [demo.small_uid]), run_here=True)
    exporter.run_here(row)
    with Path(str(exporter.requests.get(row.id).result_uri)).open("ab") as package:
        package.write(b" ")
    copy = tmp_path / "copy.json"
    assert "not the one that was published" in run("download", row.id, "--output", str(copy), exit_code=1).stderr
    assert not copy.exists()


def test_settings_lists_each_variable_and_hides_secrets(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_URI", "mongodb://me:hush@db/?authSource=admin")
    rows = json.loads(run("settings", "--json").stdout)
    values = {row["variable"]: row["value"] for row in rows}
    assert values["EXPORT_PIPELINE_BATCH_SIZE"] == "500"
    assert "db" in values["EXPORT_PIPELINE_MONGO_URI"]
    assert "hush" not in run("settings").stdout + json.dumps(rows)


def test_every_command_has_help() -> None:
    commands = {**main.commands, **{f"catalog {name}": command for name, command in catalog.commands.items()}}
    for words, command in commands.items():
        result = CliRunner().invoke(main, [*words.split(), "--help"])
        assert result.exit_code == 0
        assert command.help
        assert "Usage:" in result.output


def test_catalog_import_prints_entries_and_refusals(run: Any, tmp_path: Path) -> None:
    commands = ["mongoexport -d countly -c pushes_app1 -q '{uid: \"1a\"}'", "mongoexport -d countly -c all_app1"]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    result = json.loads(run("catalog", "import", str(tmp_path / "commands.json"), "--app", "app1", "--json").stdout)
    assert result["entries"] == [
        {"index": 0, "database": "countly", "collection": "pushes_{app_id}", "user_key": "uid"}
    ]
    assert [refusal["index"] for refusal in result["refused"]] == [1]
    assert "no selector on a user" in result["refused"][0]["reason"]


def test_an_imported_catalogue_can_be_exported_with(
    run: Any, demo: DemoData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = demo.app_ids[0]
    (tmp_path / "lines").write_text(
        f"mongoexport --db countly --collection app_users{app} -q '{{uid: {{$in: [\"x\"]}}}}'\n"
        f'mongoexport -d countly_drill -c drill_events{app} -q \'{{"uid":"x"}}\'\n'
    )
    (tmp_path / "mine.yaml").write_text(run("catalog", "import", str(tmp_path / "lines"), "--app", app).stdout)
    monkeypatch.setenv("EXPORT_PIPELINE_CATALOG", str(tmp_path / "mine.yaml"))
    output = tmp_path / "me.json"
    run("export", "--app", app, "--uid", demo.small_uid, "--output", str(output))
    assert {item["_col"] for item in json.loads(output.read_bytes())} == {f"app_users{app}", f"drill_events{app}"}


def test_catalog_check_finds_nothing_amiss_in_the_demo(run: Any, demo: DemoData) -> None:
    report = json.loads(run("catalog", "check", "--json").stdout)
    assert report["findings"] == []
    assert report["complete"]


def test_catalog_check_fails_when_its_budget_does_not_last(run: Any, demo: DemoData) -> None:
    assert "skipped, the budget is used up" in run("catalog", "check", "--documents", "0", exit_code=1).stdout


def test_a_request_for_several_apps_is_one_request_each(run: Any, demo: DemoData) -> None:
    apps = [word for app_id in demo.app_ids for word in ("--app", app_id)]
    ids = run("request", *apps, "--person", '{"uid": "1a2"}').stdout.split()
    rows = [json.loads(run("status", export_id, "--json").stdout) for export_id in ids]
    assert [row["app_id"] for row in rows] == list(demo.app_ids)


def test_an_unreachable_mongodb_is_said_within_ten_seconds(settings: Settings, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "DAGSTER_HOME": str(settings.home),
        "EXPORT_PIPELINE_MONGO_URI": "mongodb://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "export_pipeline", "export", "--app", "a", "--uid", "secretuid"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "me.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "MongoDB cannot be reached" in done.stderr
    assert "secretuid" not in done.stdout + done.stderr
    with Exporter(settings) as exporter:
        (row,) = exporter.requests.latest()
        assert (row.status, row.error_code) == ("failed", "mongo_unreachable")
        assert row.finished_at is not None
        assert (row.finished_at - row.requested_at).total_seconds() < 10


def commands_of(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands_of(command, *path, name)


@pytest.mark.parametrize("command", list(commands_of(main)), ids=" ".join)
def test_examples_in_the_help_stand_on_lines_of_their_own(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*command, "--help"]).stdout
    assert "Usage:" in shown
    assert "\\b" not in shown
    assert "Example:" not in shown or "\n  Example:\n" in shown
