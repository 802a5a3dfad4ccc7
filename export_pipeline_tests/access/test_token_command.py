"""Tokens from the command line."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from export_pipeline.access.tokens import TokenStore
from export_pipeline.cli import main
from export_pipeline.installation import Installation
from export_pipeline.settings import Settings


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command line on an installation of the test's own; it needs no MongoDB."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["token", *arguments])
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


def create(run: Any, *more: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(run("create", "--app", "mine", "--role", "maintainer", "--json", *more).stdout)
    return made


def test_a_token_is_printed_once_and_works(run: Any, tmp_path: Path) -> None:
    text = run("create", "--app", "mine", "--role", "maintainer", "--expires", "12h").stdout.strip()
    with Installation(Settings.load()) as installation:
        token = TokenStore(installation.database).find(text)
    assert token is not None
    assert (token.app_id, token.role, token.created_by[:3]) == ("mine", "maintainer", "cli")
    assert token.expires_at == token.created_at + timedelta(hours=12)
    assert text not in run("list").stdout + run("list", "--json").stdout
    assert text.encode() not in (tmp_path / "requests.db").read_bytes()


def test_its_life_is_90_days_unless_told_otherwise(run: Any) -> None:
    ends = datetime.fromisoformat(create(run)["expires_at"])
    assert timedelta(days=89) < ends - datetime.now(UTC) < timedelta(days=91)
    assert create(run, "--expires", "never")["expires_at"] is None


def test_the_list_says_how_each_stands(run: Any) -> None:
    first, second = create(run, "--label", "shop"), create(run)
    run("revoke", first["id"])
    listed = json.loads(run("list", "--json", "--app", "mine").stdout)
    assert [(token["id"], token["state"], token["label"]) for token in listed] == [
        (second["id"], "valid", ""),
        (first["id"], "revoked", "shop"),
    ]
    assert json.loads(run("list", "--json", "--app", "theirs").stdout) == []
    assert "revoked" in run("list").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "--app", "mine", "--role", "admin"], "reporter, developer, maintainer, owner"),
        (["create", "--app", "a b", "--role", "owner"], "app id"),
        (["create", "--app", "mine", "--role", "owner", "--expires", "soon"], "90d or 12h, or never"),
        (["create", "--app", "mine", "--role", "owner", "--expires", "99999d"], "expires"),
        (["create", "--app", "mine", "--role", "owner", "--expires", "0d"], "expires"),
        (["create", "--role", "owner"], "--app"),
        (["revoke", "nothing"], "no token has this id"),
    ],
)
def test_bad_usage_is_one_clear_line(run: Any, arguments: list[str], said: str) -> None:
    assert said in run(*arguments, exit_code=2).stderr
    assert json.loads(run("list", "--json").stdout) == []
