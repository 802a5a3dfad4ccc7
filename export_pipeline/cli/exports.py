"""Commands about requests: making an export here, asking for one, following it."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from export_pipeline.cli.options import ask_for_passphrase, json_option, new_request, selection_options
from export_pipeline.cli.shown import counting_bar, print_written, progress_bar
from export_pipeline.errors import BadInputError
from export_pipeline.requests.models import FINISHED, LONGEST_RETENTION, Request
from export_pipeline.requests.progress import time_left
from export_pipeline.settings import Settings

POLL_SECONDS = 0.5

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Only say how much it would hold, and which queries no index serves."
)


@click.command()
@click.option("--app", "app_id", required=True, metavar="APP", help="The app whose user it is.")
@selection_options
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; its manifest goes beside it, as FILE.manifest.json. Needed but for --dry-run.",
)
@dry_run_option
@json_option
def export(app_id: str, output: Path | None, dry_run: bool, as_json: bool, **given: Any) -> None:
    r"""Export a user right here, without Dagster, into one tagged file.

    \b
    Example:
      export-pipeline export --app 652f1a7e9c3b4d0012ab34c1 --uid 1a2 --output me.json
    """
    from export_pipeline.exporter import Exporter

    new = new_request(app_id, given)
    with Exporter(Settings.load()) as exporter:
        if dry_run:
            _print_estimate(exporter.estimate(new), as_json)
            return
        if output is None:
            raise BadInputError("--output: name the file to write")
        exporter.check(new)
        passphrase = ask_for_passphrase() if given["with_passphrase"] else None
        row = exporter.submit(new, run_here=True)
        with counting_bar("reading") as on_read:
            manifest = exporter.run_here(row, output.absolute(), on_read, passphrase)
    print_written(manifest, output, as_json)


@click.command()
@click.option("--app", "app_ids", required=True, multiple=True, metavar="APP", help="The app; one request for each.")
@selection_options
@click.option("--wait", is_flag=True, help="Follow the request to its end.")
@click.option("--idempotency-key", metavar="KEY", help="Your own name for it: sent again, it makes no second request.")
@click.option("--keep", type=click.FloatRange(min=0, min_open=True), metavar="DAYS", help="How long to keep the file.")
@click.option("--mail", metavar="ADDRESS", help="Whom to tell when it is ready, or has failed.")
@click.option("--webhook", metavar="URL", help="The program to tell.")
@dry_run_option
@json_option
def request(
    app_ids: Sequence[str],
    wait: bool,
    idempotency_key: str | None,
    keep: float | None,
    mail: str | None,
    webhook: str | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Ask for an export; Dagster's sensor picks it up. Prints the Export ID, one for each app.

    Where the same is being exported already, it is that request's ID.
    """
    from export_pipeline.exporter import Exporter
    from export_pipeline.notifications.outbox import Channel
    from export_pipeline.notifications.sending import Notifier

    retention = None if keep is None else timedelta(days=min(keep, LONGEST_RETENTION.days + 1))
    wanted = [
        replace(new_request(app_id, given), idempotency_key=idempotency_key, retention=retention) for app_id in app_ids
    ]
    with Exporter(Settings.load()) as exporter:
        if dry_run:
            for new in wanted:
                _print_estimate(exporter.estimate(new), as_json)
            return
        for new in wanted:
            exporter.check(new)  # all or none
        notifier = Notifier.of(exporter)
        wishes: dict[Channel, str | None] = {"mail": mail, "webhook": webhook}
        notifier.check_all(wishes)
        passphrase = ask_for_passphrase() if given["with_passphrase"] else None
        rows = [exporter.submit(new, passphrase=passphrase) for new in wanted]
        for row in rows:
            notifier.tell_all(row, wishes)
        if wait:
            rows = [_finished(exporter.requests, row.id) for row in rows]
    for row in rows:
        if as_json:
            click.echo(json.dumps(public(row)))
        elif wait:
            _print_request(row)
        else:
            click.echo(row.id)
    if any(row.status == "failed" for row in rows):
        sys.exit(1)


@click.command()
@click.argument("export_id", required=False)
@json_option
def status(export_id: str | None, as_json: bool) -> None:
    """Tell how a request stands; without EXPORT_ID, the latest twenty."""
    with _requests() as requests:
        rows = [requests.get(export_id)] if export_id else requests.latest()
        events = requests.events(export_id) if export_id else []
    if as_json:
        shown = [public(row) for row in rows]
        click.echo(json.dumps(shown[0] if export_id else shown))
    elif export_id:
        _print_request(rows[0])
        for event in events:
            detail = f" ({event['detail']})" if event["detail"] else ""
            click.echo(f"  {event['at']:%Y-%m-%d %H:%M:%S} UTC  {event['event']} by {event['actor']}{detail}")
    else:
        export_id_column = Column("Export ID", no_wrap=True)  # cut short it would be of no use
        table = Table(export_id_column, "kind", "app", "status", "documents", "requested", "format")
        for row in rows:
            asked = f"{row.requested_at:%Y-%m-%d %H:%M:%S}"
            format_ = row.options.get("format", "")
            table.add_row(row.id, row.kind, row.app_id, row.status, _progress_of(row), asked, format_)
        Console().print(table)


def public(row: Request) -> dict[str, Any]:
    """Return what a program may know of a request: all but the selection, which holds uids."""
    names = (name for name in row.__slots__ if name not in ("selection", "idempotency_key"))
    values = {name: getattr(row, name) for name in names}
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in values.items()}


def follow(requests: Any, request_id: str) -> Iterator[Request]:
    """Yield a request each time it is looked at, with a bar on a terminal, until it has finished."""
    with progress_bar() as bar:
        task = bar.add_task("pending", total=None)
        while True:
            row = requests.get(request_id)
            bar.update(task, description=row.status, completed=row.documents_done, total=row.documents_total)
            yield row
            if row.status in FINISHED:
                return
            time.sleep(POLL_SECONDS)


def _finished(requests: Any, request_id: str) -> Request:
    return next(row for row in follow(requests, request_id) if row.status in FINISHED)


def _print_estimate(estimate: Any, as_json: bool) -> None:
    if as_json:
        click.echo(estimate.model_dump_json())
        return
    table = Table("collection", "outcome", "documents", "about bytes", "index")
    for item in estimate.collections:
        index = "none: a full scan" if item.full_scan else "yes" if item.outcome == "present" else ""
        table.add_row(item.collection, item.outcome, f"{item.documents:,}", f"{item.bytes:,}", index)
    Console().print(table)
    click.echo(f"{estimate.documents:,} documents, about {estimate.bytes:,} bytes of BSON, of {estimate.people} people")
    for warning in estimate.warnings:
        click.echo(f"warning: {warning}", err=True)


@contextmanager
def _requests() -> Iterator[Any]:
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        yield exporter.requests


def _print_request(row: Request) -> None:
    click.echo(f"{row.id}: {row.status}, {_progress_of(row)} documents")
    if row.result_uri:
        click.echo(f"  {row.result_uri} ({row.result_bytes:,} bytes, sha256 {row.result_sha256})")
        if row.expires_at:
            click.echo(f"  kept until {row.expires_at:%Y-%m-%d %H:%M} UTC")
    if row.error_code:
        click.echo(f"  {row.error_code}: {row.error_message}")
    if row.is_live:
        _print_outlook(row)


def _print_outlook(row: Request) -> None:
    """Say what is to come: when it is due, how long it takes, how far each collection is."""
    if row.due_at:
        click.echo(f"  due {row.due_at:%Y-%m-%d %H:%M} UTC")
    if row.status == "pending" and row.not_before:
        click.echo(f"  tried again from {row.not_before:%Y-%m-%d %H:%M:%S} UTC on")
    if row.progress is None:
        return
    left = time_left(row.progress, datetime.now(UTC))
    if left is not None:
        click.echo(f"  {row.progress['phase']}; about {timedelta(seconds=round(left.total_seconds()))} left")
    table = Table("collection", "documents", "of", "bytes")
    for name, (expected, done, written) in row.progress["collections"].items():
        table.add_row(name, f"{done:,}", f"{expected:,}", f"{written:,}")
    Console().print(table)


def _progress_of(row: Request) -> str:
    return (
        f"{row.documents_done:,}" if row.documents_total is None else f"{row.documents_done:,}/{row.documents_total:,}"
    )
