"""Commands about tokens for the HTTP API."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from export_pipeline.cli.options import json_option, operator
from export_pipeline.settings import Settings

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}


class _Lifetime(click.ParamType[Any]):
    """How long something serves: 90d, 12h, never."""

    name = "lifetime"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta | None:
        if value == "never":
            return None
        found = re.fullmatch(r"([0-9]{1,6})([hd])", str(value))
        if not found:
            self.fail("expected a time such as 90d or 12h, or never", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@click.group()
def token() -> None:
    """Make, list and revoke tokens for the HTTP API."""


@token.command()
@click.option("--app", "app_id", required=True, metavar="APP", help="The app; '*' for all apps.")
@click.option("--role", required=True, help="reporter, developer, maintainer or owner; each may do more than the last.")
@click.option("--expires", "lives", default="90d", show_default=True, type=_Lifetime(), help="90d, 12h, or never.")
@click.option("--label", default="", help="What it is for.")
@json_option
def create(app_id: str, role: str, lives: timedelta | None, label: str, as_json: bool) -> None:
    r"""Make a token, and print it: it is told only now, and kept as a hash.

    \b
    Example:
      export-pipeline token create --app 652f1a7e9c3b4d0012ab34c1 --role maintainer --expires 90d
    """
    from export_pipeline.access.roles import find_role
    from export_pipeline.access.tokens import TokenStore
    from export_pipeline.installation import Installation

    with Installation(Settings.load()) as installation:
        made, text = TokenStore(installation.database).create(
            app_id, find_role(role), lives=lives, label=label, created_by=operator()
        )
    if as_json:
        click.echo(json.dumps({**_shown(asdict(made)), "token": text}))
        return
    click.echo(text)
    until = f"until {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else "for ever"
    click.echo(f"token {made.id}, {made.role} of {made.app_id}, {until}; it is not shown again", err=True)


@token.command("list")
@click.option("--app", "app_id", metavar="APP", help="Only those of this app.")
@json_option
def list_tokens(app_id: str | None, as_json: bool) -> None:
    """List all tokens, the newest first, those that have ended too."""
    from export_pipeline.access.tokens import TokenStore
    from export_pipeline.installation import Installation

    with Installation(Settings.load()) as installation:
        tokens = TokenStore(installation.database).page(app_id=app_id)
    now = datetime.now(UTC)
    if as_json:
        click.echo(json.dumps([{**_shown(asdict(found)), "state": found.state(now)} for found in tokens]))
        return
    table = Table("id", "app", "role", "state", "expires", "last used", "label")
    for found in tokens:
        used, ends = (f"{at:%Y-%m-%d %H:%M}" if at else "never" for at in (found.last_used_at, found.expires_at))
        table.add_row(found.id, found.app_id, found.role, found.state(now), ends, used, found.label)
    Console().print(table)


@token.command()
@click.argument("token_id")
def revoke(token_id: str) -> None:
    """Revoke a token, at once and for good."""
    from export_pipeline.access.tokens import TokenStore
    from export_pipeline.installation import Installation

    with Installation(Settings.load()) as installation:
        TokenStore(installation.database).revoke(token_id)
    click.echo(f"{token_id}: revoked")


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in record.items()}
