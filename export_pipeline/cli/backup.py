"""The command for backups: making one right here, checking one, laying one out for mongorestore."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from export_pipeline.cli.options import _Size as Size
from export_pipeline.cli.options import json_option, opening_keys, opening_options, operator
from export_pipeline.cli.shown import counting_bar, progress_bar
from export_pipeline.errors import BadInputError
from export_pipeline.settings import Settings

if TYPE_CHECKING:
    from export_pipeline.backups.manifest import BackupManifest


@click.group(invoke_without_command=True)
@click.option("--app", "app_id", metavar="APP", help="The app; '*' for all apps.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["bson", "jsonl", "parquet", "csv"]),
    default="bson",
    show_default=True,
    help="bson is complete and the fastest; csv, a file per collection, cannot be restored.",
)
@click.option(
    "--compress", type=click.Choice(["none", "gzip", "zstd"]), default="none", show_default=True, help="Each file."
)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="AGE1…",
    help="Encrypt each file with age, so that only the holder of this public key can open it. May be repeated.",
)
@click.option("--part-size", "part_bytes", type=Size(), metavar="SIZE", help="The most of one file; 100MB if left out.")
@click.option(
    "--since",
    "base",
    metavar="BACKUP",
    help="Incremental: only what has changed since this backup, or since the 'latest' that fits.",
)
@click.option("--storage", metavar="ROOT", help="A directory or s3://bucket/prefix, where it is not the settings'.")
@click.option(
    "--processes",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="How many parts are written at once: in threads for bson, in processes for what has to be encoded.",
)
@json_option
@click.pass_context
def backup(
    context: click.Context,
    app_id: str | None,
    format_: str,
    compress: str,
    recipients: Sequence[str],
    part_bytes: int | None,
    base: str | None,
    storage: str | None,
    processes: int,
    as_json: bool,
) -> None:
    r"""Back up a whole app right here, without Dagster: its collections as they are at one moment.

    \b
    Example:
      export-pipeline backup --app 652f1a7e9c3b4d0012ab34c1 --compress zstd
    """
    if context.invoked_subcommand is not None:
        return
    if app_id is None:
        raise BadInputError("--app: name the app, or '*' for all apps")
    from export_pipeline.backups.backup import Backups
    from export_pipeline.installation import Installation
    from export_pipeline.requests.backups import NewBackup

    form: dict[str, Any] = {"format": format_, "compression": compress, "recipients": list(recipients)}
    form |= {} if part_bytes is None else {"part_bytes": part_bytes}
    new = NewBackup(app_id, form, base=base, storage=storage, requested_by=operator())
    with Installation(Settings.load()) as installation:
        backups = Backups(installation)
        row = backups.submit(new, run_here=True)
        with _bar() as on_progress:
            manifest = backups.run(row, processes, on_progress)
        where = str(backups.requests.get(row.id).result_uri)
    if as_json:
        click.echo(json.dumps({"backup_id": row.id, "manifest": where, "kind": manifest.kind, **_figures(manifest)}))
        return
    _print_backup(manifest)
    click.echo(f"{where}: the manifest of backup {row.id}, {manifest.totals.file_bytes:,} bytes")


@backup.command()
@click.argument("named", metavar="BACKUP")
@opening_options
@json_option
def verify(named: str, as_json: bool, **given: Any) -> None:
    """Check a backup by reading it back: every part there, the one that was written, and no other.

    BACKUP is its id, or the folder or URL that it is in. The inside of an encrypted one is checked with --identity.
    """
    from export_pipeline.backups.restore_source import find_backup
    from export_pipeline.backups.verify import verify_backup
    from export_pipeline.installation import Installation

    keys = opening_keys(given)
    with Installation(Settings.load()) as installation:
        found = find_backup(installation, named)
        verified = verify_backup(found.storage, f"{found.beside}{found.name}", keys)
    if as_json:
        click.echo(json.dumps({"whole": True, "inside": verified.looked_inside, **_figures(verified.manifest)}))
        return
    _print_backup(verified.manifest)
    seen = "whole" if verified.looked_inside else "the bytes that were written; --identity checks the inside as well"
    click.echo(f"{named}: {seen}")


@backup.command()
@click.argument("named", metavar="BACKUP")
@click.option(
    "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="The new directory to write."
)
@opening_options
def dump(named: str, output: Path, **given: Any) -> None:
    """Lay a backup out as mongodump does, one file of plain BSON per collection, for mongorestore.

    BACKUP is its id, or the folder or URL that it is in.
    """
    from export_pipeline.backups.dump import dump_backup
    from export_pipeline.backups.restore_source import find_backup
    from export_pipeline.installation import Installation

    keys = opening_keys(given)
    with Installation(Settings.load()) as installation, counting_bar("writing") as on_documents:
        found = find_backup(installation, named)
        left_out = dump_backup(found.storage, f"{found.beside}{found.name}", output.absolute(), keys, on_documents)
    click.echo(f"{output}: for 'mongorestore {output}'")
    if left_out:
        click.echo(f"left out, as mongorestore takes no time series: {', '.join(left_out)}", err=True)


@backup.command()
@click.argument("named", metavar="BACKUP")
@click.confirmation_option(prompt="This removes the backup's files for good. Go on?")
def remove(named: str) -> None:
    """Remove a backup, by its id: its files go, its row stays as history. One that others build on stays."""
    from export_pipeline.backups.removal import remove_by_hand
    from export_pipeline.installation import Installation

    with Installation(Settings.load()) as installation:
        remove_by_hand(installation, named)
    click.echo(f"{named}: removed")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    with progress_bar() as bar:
        task = bar.add_task("backing up", total=None)
        yield lambda done, expected: bar.update(task, completed=done, total=max(done, expected))


def _figures(manifest: "BackupManifest") -> dict[str, Any]:
    return {"totals": manifest.totals.model_dump(), "moment": manifest.moment.model_dump(mode="json")}


def _print_backup(manifest: "BackupManifest") -> None:
    table = Table("collection", "kind", "how", "documents", "files", "bytes")
    for each in manifest.collections:
        row = (each.name, each.structure.kind, each.method)
        figures = (each.documents_written, len(each.parts), sum(part.file_bytes for part in each.parts))
        table.add_row(*row, *(f"{figure:,}" for figure in figures))
    Console().print(table)
    for name in manifest.left_out:
        click.echo(f"left out, since it may be another app's: {name}", err=True)
