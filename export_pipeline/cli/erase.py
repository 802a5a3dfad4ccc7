"""The command that erases people, in two steps."""

import json
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from export_pipeline.cli.options import json_option, operator
from export_pipeline.installation import Installation
from export_pipeline.settings import Settings

if TYPE_CHECKING:
    from export_pipeline.backups.erase import Receipt
    from export_pipeline.backups.erase_records import Erasure


@click.command()
@click.option("--app", "app_id", required=True, metavar="APP", help="The app whose user it is.")
@click.option("--uid", "uids", required=True, multiple=True, metavar="UID", help="The user. May be repeated.")
@click.option("--confirm", "erasure_id", metavar="ID", help="Delete what the dry run of this id counted.")
@json_option
def erase(app_id: str, uids: tuple[str, ...], erasure_id: str | None, as_json: bool) -> None:
    r"""Erase a user over the whole catalogue: documents, exports, and from what backups bring back.

    Without --confirm nothing is deleted: it counts, and prints the id to confirm within a day. An erasure that was
    interrupted is confirmed again.

    \b
    Example:
      export-pipeline erase --app 652f1a7e9c3b4d0012ab34c1 --uid 1a2
      export-pipeline erase --app 652f1a7e9c3b4d0012ab34c1 --uid 1a2 --confirm ID
    """
    from export_pipeline.backups.erase import Erasures

    with Installation(Settings.load()) as installation:
        erasures = Erasures(installation)
        if erasure_id is None:
            _print_counted(erasures.count(app_id, uids, operator()), as_json)
        else:
            _print_receipt(erasures.confirm(erasure_id, app_id, uids, operator()), as_json)


def _print_counted(erasure: "Erasure", as_json: bool) -> None:
    counted = erasure.counted
    if as_json:
        click.echo(json.dumps({"erasure_id": erasure.id, "dry_run": True, **counted.model_dump()}))
        return
    table = Table("collection", "to delete", "to take them out of")
    for collection in counted.collections:
        name = f"{collection.collection} (a view)" if collection.is_view else collection.collection
        table.add_row(name, f"{collection.own:,}", f"{collection.shared:,}")
    Console().print(table)
    click.echo(
        f"{counted.uids} uids, {counted.merged_uids} merged with them, {counted.device_ids} devices. "
        f"Nothing is deleted yet: add --confirm {erasure.id} within a day"
    )
    if counted.shared_device_ids:
        click.echo(
            f"warning: {counted.shared_device_ids} of the devices are other people's too; what lies under them stays",
            err=True,
        )


def _print_receipt(receipt: "Receipt", as_json: bool) -> None:
    if as_json:
        click.echo(receipt.model_dump_json())
        return
    table = Table("collection", "deleted", "taken out of", "left")
    for collection in receipt.collections:
        name = f"{collection.collection} (a view)" if collection.is_view else collection.collection
        table.add_row(name, f"{collection.deleted:,}", f"{collection.detached:,}", f"{collection.left:,}")
    Console().print(table)
    click.echo(f"{receipt.erasure_id}: erased; {receipt.requests_forgotten} requests and their exports are forgotten")
