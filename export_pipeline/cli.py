"""The command line. Exit codes: 0 done, 1 failed, 2 bad usage. Each command parses, calls the library, and prints."""

import getpass
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.requests.models import DEFAULT_FORMAT, DEFAULT_JSON_MODE, FINISHED, NewRequest, Request
from export_pipeline.settings import Settings, environment_variable

POLL_SECONDS = 0.5

stderr = Console(stderr=True)


class ReportedGroup(click.Group):
    """Turns the library's errors into one line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ExportPipelineError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2 if isinstance(error, BadInputError) else 1)


@click.group(cls=ReportedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="export-pipeline")
def main() -> None:
    """Hand over all that a MongoDB holds about a user: whole, at one point in time, and proven so.

    Settings come from environment variables; 'export-pipeline settings' lists them.
    """


def selection_options(command: Any) -> Any:
    """Add the options that say whose data is wanted, and how."""
    options = (
        click.option("--app", "app_id", required=True, metavar="APP", help="The app whose user it is."),
        click.option("--uid", "uids", multiple=True, required=True, metavar="UID", help="The user; may be repeated."),
        click.option("--format", "format_", default=DEFAULT_FORMAT, show_default=True, help="json, jsonl or parquet."),
        click.option(
            "--json-mode",
            default=DEFAULT_JSON_MODE,
            show_default=True,
            help="relaxed is easy to read, canonical keeps every BSON type.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@main.command()
@selection_options
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; its manifest goes beside it, as FILE.manifest.json.",
)
@json_option
def export(app_id: str, uids: Sequence[str], format_: str, json_mode: str, output: Path, as_json: bool) -> None:
    r"""Export a user right here, without Dagster, into one tagged file.

    \b
    Example:
      export-pipeline export --app 652f1a7e9c3b4d0012ab34c1 --uid 1a2 --output me.json
    """
    from export_pipeline.exporter import Exporter, manifest_path

    new = NewRequest(app_id, uids, format_, json_mode, requested_by=_operator())
    with Exporter(Settings.load()) as exporter:
        request = exporter.submit(new, run_here=True)
        with _reading_bar() as on_read:
            manifest = exporter.run_here(request, output.absolute(), on_read)
    if as_json:
        click.echo(manifest.model_dump_json())
        return
    table = Table("collection", "outcome", "documents", "bytes")
    for report in manifest.collections:
        table.add_row(report.collection, report.outcome, f"{report.documents_written:,}", f"{report.bytes:,}")
    Console().print(table)
    click.echo(f"{output}: {manifest.totals.documents_written:,} documents, {manifest.file.bytes:,} bytes")
    click.echo(f"{manifest_path(output)}: the manifest")


@main.command()
@selection_options
@click.option("--wait", is_flag=True, help="Follow the request to its end.")
@json_option
def request(app_id: str, uids: Sequence[str], format_: str, json_mode: str, wait: bool, as_json: bool) -> None:
    """Ask for an export; Dagster's sensor picks it up. Prints the Export ID."""
    from export_pipeline.exporter import Exporter

    new = NewRequest(app_id, uids, format_, json_mode, requested_by=_operator())
    with Exporter(Settings.load()) as exporter:
        row = exporter.submit(new)
        if wait:
            row = next(row for row in follow(exporter.requests, row.id) if row.status in FINISHED)
    if as_json:
        click.echo(json.dumps(public(row)))
    elif wait:
        _print_request(row)
    else:
        click.echo(row.id)
    if row.status == "failed":
        sys.exit(1)


@main.command()
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
            click.echo(f"  {event['at']:%Y-%m-%d %H:%M:%S} UTC  {event['event']} by {event['actor']}")
    else:
        export_id_column = Column("Export ID", no_wrap=True)  # cut short it would be of no use
        table = Table(export_id_column, "app", "status", "documents", "requested", "format")
        for row in rows:
            asked = f"{row.requested_at:%Y-%m-%d %H:%M:%S}"
            table.add_row(row.id, row.app_id, row.status, _progress_of(row), asked, row.options["format"])
        Console().print(table)


@main.command()
@click.argument("export_id")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write; export.<ext> if left out."
)
def download(export_id: str, output: Path | None) -> None:
    """Copy a finished export, and its manifest, out of the storage."""
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        row = exporter.requests.get(export_id)
        written = exporter.download(row, output)
    click.echo(str(written))


@main.command()
@json_option
def settings(as_json: bool) -> None:
    """List every setting with its value, its environment variable and what it does; secrets stay hidden."""
    values = Settings.load()
    rows = [
        {
            "variable": environment_variable(name),
            "value": values.shown(name),
            "description": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("variable", "value", "what it does")
    for row in rows:
        table.add_row(row["variable"], row["value"], row["description"])
    Console().print(table)


@main.command()
@click.option("--users", default=300, show_default=True, help="How many people the demo's first app has.")
@click.option("--scale", default=1.0, show_default=True, help="Multiplies how many documents each of them has.")
@click.option("--serve", is_flag=True, help="Leave Dagster's UI open until Ctrl-C.")
@click.option(
    "--folder",
    default="export-pipeline-demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the demo's files go.",
)
def demo(users: int, scale: float, serve: bool, folder: Path) -> None:
    """Show the whole path on generated data: a MongoDB, Dagster's daemon, three requests, their files."""
    from export_pipeline.demo.run import run_demo

    run_demo(Console(), folder.absolute(), users=users, scale=scale, serve=serve)


def public(row: Request) -> dict[str, Any]:
    """Return what a program may know of a request: all but the selection, which holds uids."""
    names = (name for name in row.__slots__ if name not in ("selection", "idempotency_key"))
    values = {name: getattr(row, name) for name in names}
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in values.items()}


def follow(requests: Any, request_id: str) -> Iterator[Request]:
    """Yield a request each time it is looked at, with a bar on a terminal, until it has finished."""
    with _bar() as bar:
        task = bar.add_task("pending", total=None)
        while True:
            row = requests.get(request_id)
            bar.update(task, description=row.status, completed=row.documents_done, total=row.documents_total)
            yield row
            if row.status in FINISHED:
                return
            time.sleep(POLL_SECONDS)


@contextmanager
def _requests() -> Iterator[Any]:
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        yield exporter.requests


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )


@contextmanager
def _reading_bar() -> Iterator[Any]:
    with _bar() as bar:
        task = bar.add_task("reading", total=None)
        yield lambda documents: bar.advance(task, documents)


def _print_request(row: Request) -> None:
    click.echo(f"{row.id}: {row.status}, {_progress_of(row)} documents")
    if row.result_uri:
        click.echo(f"  {row.result_uri} ({row.result_bytes:,} bytes, sha256 {row.result_sha256})")
        if row.expires_at:
            click.echo(f"  kept until {row.expires_at:%Y-%m-%d %H:%M} UTC")
    if row.status == "failed":
        click.echo(f"  {row.error_code}: {row.error_message}")


def _progress_of(row: Request) -> str:
    return (
        f"{row.documents_done:,}" if row.documents_total is None else f"{row.documents_done:,}/{row.documents_total:,}"
    )


def _operator() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return "cli"
