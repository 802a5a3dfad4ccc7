"""The commands about schedules, as a person or a script calls them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from export_pipeline.cli import main

NIGHTLY = ("schedule", "add", "--app", "app", "--cron", "30 3 * * *")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command line on the test's installation."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


def shown(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_schedule_is_made_with_all_that_was_given(run: Any) -> None:
    given = (
        *("--zone", "Europe/Berlin", "--format", "jsonl", "--compression", "zstd", "--part-bytes", "5000000"),
        *("--storage", "s3://backups/nightly", "--full-every", "7", "--keep-daily", "14", "--keep-monthly", "12"),
    )
    made = shown(run(*NIGHTLY, *given, "--json"))
    assert made["time_zone"] == "Europe/Berlin"
    assert made["options"] == {"format": "jsonl", "compression": "zstd", "part_bytes": 5000000}
    assert (made["storage"], made["full_every"]) == ("s3://backups/nightly", 7)
    rules = {"last": 0, "days": 0, "daily": 14, "weekly": 0, "monthly": 12, "yearly": 0}
    assert made["retention"] == rules
    assert made["created_by"].startswith("cli")
    assert shown(run("schedule", "list", "--json")) == [made]


def test_without_more_the_backups_are_full_and_all_are_kept(run: Any) -> None:
    result = run(*NIGHTLY)
    assert result.stdout.endswith(" 03:30 UTC\n")
    listed = run("schedule", "list").stdout
    assert "30 3" in listed
    made = shown(run("schedule", "list", "--json"))[0]
    assert (made["storage"], made["options"], made["full_every"]) == (None, {}, 1)


def test_an_edit_changes_what_is_given_and_nothing_else(run: Any) -> None:
    made = shown(run(*NIGHTLY, "--compression", "gzip", "--keep-last", "3", "--keep-daily", "7", "--json"))
    changed = ("--cron", "0 4 * * *", "--format", "csv", "--keep-daily", "0", "--storage", "/backups", "--json")
    edited = shown(run("schedule", "edit", made["id"], *changed))
    assert edited["options"] == {"compression": "gzip", "format": "csv"}
    assert (edited["retention"]["last"], edited["retention"]["daily"]) == (3, 0)
    assert (edited["cron"], edited["storage"], edited["time_zone"]) == ("0 4 * * *", "/backups", "UTC")
    back = shown(run("schedule", "edit", made["id"], "--storage", "installation", "--json"))
    assert back["storage"] is None


def test_backups_are_encrypted_and_not_any_more(run: Any) -> None:
    key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    made = shown(run(*NIGHTLY, "--recipient", key, "--json"))
    assert made["options"]["recipients"] == [key]
    edited = shown(run("schedule", "edit", made["id"], "--recipient", "none", "--json"))
    assert edited["options"]["recipients"] == []


def test_a_schedule_rests_works_again_and_goes(run: Any) -> None:
    made = shown(run(*NIGHTLY, "--json"))
    assert run("schedule", "disable", made["id"]).stdout == f"{made['id']}: next backup: never, it is disabled\n"
    assert not shown(run("schedule", "list", "--json"))[0]["enabled"]
    assert "03:30 UTC" in run("schedule", "enable", made["id"]).stdout
    assert "its backups stay" in run("schedule", "remove", made["id"]).stdout
    assert shown(run("schedule", "list", "--json")) == []


def test_only_the_schedules_of_an_app_are_listed(run: Any) -> None:
    run(*NIGHTLY)
    of_all = shown(run("schedule", "add", "--app", "*", "--cron", "0 * * * *", "--json"))
    assert shown(run("schedule", "list", "--app", "*", "--json")) == [of_all]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--cron", "30 3 * *"), "cron: expected five fields"),
        (("--zone", "Mars/Base"), "time zone: expected a name"),
        (("--keep-daily", "-1"), "retention: daily: expected a whole number"),
        (("--storage", "backups"), "storage: expected a directory's whole path"),
        (("--recipient", "age1me"), "error: "),
        (("--format", "excel"), "'excel' is not one of"),
    ],
)
def test_bad_usage_is_told_and_makes_nothing(run: Any, wrong: tuple[str, str], says: str) -> None:
    result = run(*NIGHTLY, *wrong, exit_code=2)
    assert says in result.stderr
    assert shown(run("schedule", "list", "--json")) == []


@pytest.mark.parametrize("command", ["edit", "enable", "disable", "remove"])
def test_an_unknown_schedule_is_told(run: Any, command: str) -> None:
    assert "no schedule has this id" in run("schedule", command, "nobody", exit_code=2).stderr
