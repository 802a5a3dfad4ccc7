"""The command for backups, as an operator types it."""

import json
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import ObjectId
from click.testing import CliRunner, Result
from pymongo import MongoClient

from export_pipeline.cli import main
from export_pipeline.encryption.age import new_identity
from export_pipeline_tests.conftest import MakeDatabase

APP = "652f1a7e9c3b4d0012ab3bcd"


@pytest.fixture
def run(make_database: MakeDatabase, mongo_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a command on an app of some documents."""
    names: dict[str, list[Any]] = {
        f"app_users{APP}": [{"_id": n, "uid": f"u{n}"} for n in range(300)],
        f"a/b {APP}": [{"_id": ObjectId()}],
    }
    settings = make_database(names)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_URI", mongo_uri)
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_DATABASE", settings.mongo_database)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["backup", *arguments])

    return invoke


def test_a_backup_is_made_checked_and_laid_out_for_mongorestore(
    run: Any, tmp_path: Path, mongo_client: MongoClient[dict[str, Any]]
) -> None:
    identity = new_identity()
    (tmp_path / "key.txt").write_text(f"{identity.secret}\n")
    given = ["--app", APP, "--compress", "zstd", "--recipient", str(identity.recipient), "--part-size", "5MB"]
    said = json.loads(run(*given, "--json").stdout)
    assert said["totals"]["documents"] == 301
    checked = run("verify", said["backup_id"], "--identity", str(tmp_path / "key.txt"), "--json")
    assert json.loads(checked.stdout)["inside"] is True
    assert "--identity checks the inside" in run("verify", str(Path(said["manifest"]).parent)).stdout
    laid_out = tmp_path / "dump"
    done = run("dump", said["backup_id"], "--identity", str(tmp_path / "key.txt"), "--output", str(laid_out))
    assert done.exit_code == 0
    (database,) = laid_out.iterdir()
    assert sorted(file.name for file in database.iterdir()) == [
        f"a%2Fb {APP}.bson",
        f"a%2Fb {APP}.metadata.json",
        f"app_users{APP}.bson",
        f"app_users{APP}.metadata.json",
    ]
    with (database / f"app_users{APP}.bson").open("rb") as file:
        assert [document["_id"] for document in bson.decode_file_iter(file)] == list(range(300))
    assert run("dump", said["backup_id"], "--output", str(laid_out)).exit_code == 2


def test_a_table_tells_what_was_backed_up(run: Any) -> None:
    shown = run("--app", APP)
    assert shown.exit_code == 0
    assert "300" in shown.stdout
    assert "the manifest of backup" in shown.stdout
    assert json.loads(run("--app", APP, "--since", "latest", "--json").stdout)["kind"] == "incremental"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--app: name the app"),
        (["--app", "a/b"], "app id"),
        (["--app", APP, "--format", "parquet", "--compress", "gzip"], "parquet compresses inside"),
        (["--app", APP, "--recipient", "age1no"], "recipient"),
        (["--app", APP, "--since", "nothing"], "no such backup"),
        (["--app", APP, "--part-size", "1kB"], "part_bytes"),
        (["verify", "nothing"], "nothing"),
    ],
)
def test_bad_usage_is_told_and_nothing_is_written(run: Any, arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "home" / "exports").exists()


def test_a_backup_is_removed_once_somebody_says_so(run: Any) -> None:
    said = json.loads(run("--app", APP, "--json").stdout)
    folder = Path(said["manifest"]).parent
    assert run("remove", said["backup_id"]).exit_code == 1, "nobody has confirmed it"
    assert folder.exists()
    assert run("remove", said["backup_id"], "--yes").exit_code == 0
    assert not folder.exists()
    assert "no backup has this id" in run("remove", "0190", "--yes").stderr
