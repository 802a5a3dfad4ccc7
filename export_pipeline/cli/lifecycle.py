"""Commands that change a request after it was made: cancelling, retrying, extending, forgetting people and apps."""

from datetime import UTC, datetime

import click

from export_pipeline.cli.options import operator
from export_pipeline.settings import Settings


@click.command()
@click.argument("export_id")
def cancel(export_id: str) -> None:
    """Cancel a pending or running request, and remove what was written for it.

    Whatever works on it stops by itself within seconds.
    """
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        exporter.cancel(export_id, operator())
    click.echo(f"{export_id}: cancelled")


@click.command()
@click.argument("export_id")
def retry(export_id: str) -> None:
    """Try a failed request again; Dagster's sensor picks it up."""
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        exporter.requests.retry(export_id, operator())
    click.echo(f"{export_id}: pending")


@click.command()
@click.argument("export_id")
@click.option(
    "--until",
    required=True,
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="The new due date, in UTC: at most 90 days after the request.",
)
@click.option("--reason", required=True, help="Why it takes longer; it goes into the history. Names nobody.")
def extend(export_id: str, until: datetime, reason: str) -> None:
    r"""Extend a request's due date, as GDPR article 12(3) allows for complex or numerous requests.

    The person has to be told of it, and why, within a month of the request.

    \b
    Example:
      export-pipeline extend EXPORT_ID --until 2026-12-31 --reason 'unusually many requests'
    """
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        exporter.requests.extend_due(export_id, until.replace(tzinfo=UTC), reason, operator())
    click.echo(f"{export_id}: due {until:%Y-%m-%d %H:%M} UTC")


@click.command()
@click.option("--app", "app_id", required=True, metavar="APP", help="The app.")
@click.option("--uid", metavar="UID", help="Only this user's; without it, all of the app's.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(app_id: str, uid: str | None, yes: bool) -> None:
    """Remove at once what was exported of a deleted user, or of a deleted app; requests under way are cancelled.

    What happened stays in the history, without the person.
    """
    from export_pipeline.exporter import Exporter

    if not yes:
        whose = "this user" if uid is not None else f"ALL users of app {app_id}"
        click.confirm(f"Remove every export of {whose}?", abort=True, err=True)
    with Exporter(Settings.load()) as exporter:
        count = exporter.forget(app_id, uid, operator())
    click.echo(f"{count} requests forgotten")
