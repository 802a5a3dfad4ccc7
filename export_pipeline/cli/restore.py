"""The command that restores a backup."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from export_pipeline.cli.options import json_option, operator
from export_pipeline.cli.shown import counting_bar
from export_pipeline.installation import Installation
from export_pipeline.settings import Settings

if TYPE_CHECKING:
    from export_pipeline.backups.restore import RestoreReport


@click.command()
@click.argument("backup")
@click.option(
    "--to-database",
    "databases",
    required=True,
    multiple=True,
    metavar="NAME",
    help="Where to; empty, or new. Of a backup of several databases, the others' names begin with it as they did with "
    "the first's; or OLD=NEW for each.",
)
@click.option("--mongo-uri", metavar="URI", help="Another MongoDB than EXPORT_PIPELINE_MONGO_URI.")
@click.option("--app-id", metavar="APP", help="Another id for the app than it had.")
@click.option("--without", multiple=True, metavar="COLLECTION", help="Leave this collection out. May be repeated.")
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True, help="How many parts at a time.")
@click.option(
    "--identity",
    "identity_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file with the age identity (AGE-SECRET-KEY-1…) that opens an encrypted backup.",
)
@click.option("--dry-run", is_flag=True, help="Check every part, and whether the target takes it; write nothing.")
@json_option
def restore(
    backup: str,
    databases: tuple[str, ...],
    mongo_uri: str | None,
    app_id: str | None,
    without: tuple[str, ...],
    threads: int,
    identity_file: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    r"""Restore BACKUP, an id, or a folder that it was copied to, into an empty database.

    Nothing is written unless every part is whole and the target takes it. What was restored is compared with what was
    backed up. Users who were erased since are left out. An interrupted restore is called again, and continues.

    \b
    Example:
      export-pipeline restore 0190d2f0-… --to-database countly_restored --dry-run
    """
    from export_pipeline.backups.restore import Restore
    from export_pipeline.backups.restore_plan import Wish
    from export_pipeline.backups.restore_source import find_backup
    from export_pipeline.backups.restoring import Restores
    from export_pipeline.encryption.age import parse_identities
    from export_pipeline.mongo.connection import connect
    from export_pipeline.packages.layers import Keys

    wish = Wish(databases, app_id, without, threads)
    keys = Keys(parse_identities(identity_file.read_text()) if identity_file else [])
    with Installation(Settings.load()) as installation, counting_bar("restoring") as on_documents:
        client = connect(mongo_uri) if mongo_uri else installation.client
        try:
            restoring = Restore(installation, find_backup(installation, backup), client, wish, keys)
            if dry_run:
                report = restoring.check()
            else:
                restores = Restores(installation)
                attended = bool(keys or mongo_uri)
                row = restores.submit(restoring, backup, operator(), attended=attended, run_here=True)
                report = restores.run(row, restoring, on_documents)
        finally:
            if mongo_uri:
                client.close()
    if as_json:
        click.echo(report.model_dump_json())
    else:
        _print_report(report)


def _print_report(report: "RestoreReport") -> None:
    table = Table("collection", "kind", "documents", "left out", "taken out of")
    for each in report.collections:
        table.add_row(
            f"{each.database}.{each.collection}",
            each.kind,
            f"{each.documents:,}",
            f"{each.left_out:,}",
            f"{each.detached:,}",
        )
    Console().print(table)
    if report.dry_run:
        click.echo(
            f"every part is whole and the target takes it: {report.documents:,} documents. Nothing is written yet"
        )
        return
    click.echo(f"{report.backup_id}: restored and compared; {report.documents:,} documents in {report.seconds:,.0f} s")
    if report.left_out or report.detached:
        click.echo(
            f"{report.left_out:,} documents of users who were erased since were left out, and such users were taken "
            f"out of {report.detached:,}"
        )
    for each in report.collections:
        if not each.exact:
            click.echo(
                f"warning: {each.collection} holds values that Extended JSON does not keep to the bit; a backup in the "
                "format bson does",
                err=True,
            )
