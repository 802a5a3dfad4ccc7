"""Commands about the catalogue: making entries from what exists, and comparing it with the database."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import BinaryIO

import click
import yaml

from export_pipeline.catalog.drift.check import DEFAULT_BUDGET, Budget
from export_pipeline.catalog.importing.mongoexport import ImportedEntry, import_commands, read_commands
from export_pipeline.cli.options import json_option
from export_pipeline.errors import BadInputError
from export_pipeline.settings import Settings


@click.group()
def catalog() -> None:
    """Which collections hold a user's data: make entries, and check them against the database."""


@catalog.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--app", "app_id", required=True, metavar="APP", help="The app id that stands in the commands.")
@json_option
def import_(file: BinaryIO, app_id: str, as_json: bool) -> None:
    r"""Turn the mongoexport commands that plugins have into catalogue entries.

    FILE ('-' for standard input) holds a JSON array of commands, a JSON value per line, or a shell command per line.
    What cannot be understood, or selects more than given users, is refused with the reason.

    \b
    Example:
      export-pipeline catalog import commands.json --app 63ef551128bad91a3c11d3e7 > mine.yaml
    """
    try:
        text = file.read().decode()
    except UnicodeDecodeError:
        raise BadInputError("the file of commands is not UTF-8 text") from None
    result = import_commands(read_commands(text), app_id)
    refused = [asdict(refusal) for refusal in result.refused]
    if as_json:
        entries = [asdict(entry) for entry in result.entries]
        click.echo(json.dumps({"entries": entries, "refused": refused}))
    else:
        click.echo(entries_as_yaml(result.entries), nl=False)
        for refusal in refused:
            click.echo(f"command {refusal['index']} is refused: {refusal['reason']}", err=True)


@catalog.command()
@click.option("--app", "apps", multiple=True, metavar="APP", help="Only this app; may be repeated. All, if left out.")
@click.option("--seconds", default=DEFAULT_BUDGET.seconds, show_default=True, help="The most time to take.")
@click.option("--documents", default=DEFAULT_BUDGET.documents, show_default=True, help="The most documents to sample.")
@json_option
def check(apps: Sequence[str], seconds: float, documents: int, as_json: bool) -> None:
    """Compare the catalogue with the database: what an export would miss, or no longer finds.

    Samples within a budget. The exit code is 1 where there is a finding, or where the budget did not last.
    """
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        report = exporter.check_catalog(Budget(seconds, documents), list(apps) or None)
    if as_json:
        click.echo(report.model_dump_json())
    else:
        for finding in report.findings:
            where = f"{finding.database}.{finding.collection}" + (f" field {finding.field}" if finding.field else "")
            click.echo(f"{finding.kind}: {where}\n  {finding.detail}")
        click.echo(
            f"{len(report.findings)} findings; {report.collections} collections of {report.apps} apps looked at, "
            f"{report.documents:,} documents sampled in {report.seconds:.1f} s"
            + ("" if report.complete else f"; {report.skipped} collections skipped, the budget is used up")
        )
    if report.findings or not report.complete:
        sys.exit(1)


def entries_as_yaml(entries: list[ImportedEntry]) -> str:
    """Return a catalogue of these entries, each once, ready to be looked over and saved."""
    seen = dict.fromkeys((entry.database, entry.collection, entry.user_key) for entry in entries)
    names: set[str] = set()
    collections = []
    for database, collection, user_key in seen:
        name = _free_name(collection, names)
        names.add(name)
        where = {} if database is None else {"database": database}
        collections.append({"name": name, "plugin": name, "collection": collection, "user_key": user_key} | where)
    return yaml.safe_dump({"version": 1, "collections": collections}, sort_keys=False) if collections else ""


def _free_name(collection: str, taken: set[str]) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", collection.replace("{app_id}", "").lower()).strip("_")
    name = plain if plain[:1].isalpha() else f"collection_{plain}"
    number = 2
    while name in taken:
        name = f"{plain}_{number}"
        number += 1
    return name
