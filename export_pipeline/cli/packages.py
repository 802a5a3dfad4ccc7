"""Commands about packages: fetching one, checking it, turning it into another format."""

import json
from pathlib import Path
from typing import Any

import click

from export_pipeline.cli.options import (
    ask_for_passphrase,
    file_format_options,
    file_options,
    json_option,
    opening_keys,
    opening_options,
)
from export_pipeline.cli.shown import counting_bar, print_manifest, print_written
from export_pipeline.settings import Settings


@click.command()
@click.argument("export_id")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; export.<ext> if left out. The parts of a split one get a number in their names.",
)
def download(export_id: str, output: Path | None) -> None:
    """Copy a finished export, and its manifest, out of the storage."""
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        row = exporter.requests.get(export_id)
        for written in exporter.download(row, output):
            click.echo(str(written))


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@opening_options
@json_option
def verify(file: Path, as_json: bool, **given: Any) -> None:
    """Check a package against the manifest beside it: bytes, hashes, and documents by collection. Needs no database.

    FILE is the package, or any part of it. The inside of an encrypted one is checked where --identity or --unlock
    opens it.
    """
    from export_pipeline.packages.verify import can_look_inside, verify_package

    keys = opening_keys(given)
    manifest = verify_package(file, keys)
    looked_inside = can_look_inside(manifest, keys)
    if as_json:
        said = {"file": file.name, "whole": True, "inside": looked_inside, "totals": manifest.totals.model_dump()}
        click.echo(json.dumps(said))
        return
    print_manifest(manifest)
    if looked_inside:
        click.echo(f"{file}: whole; {manifest.totals.documents_written:,} documents, as its manifest says")
    else:
        click.echo(f"{file}: the bytes that were written. It is encrypted: --identity or --unlock checks its inside")


@click.command()
@click.argument("package", type=click.Path(dir_okay=False, path_type=Path))
@file_format_options
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@opening_options
@json_option
def convert(package: Path, output: Path, as_json: bool, **given: Any) -> None:
    """Turn a lossless PACKAGE into another format, offline: canonical JSON, Parquet with _doc, HTML or BSON."""
    from export_pipeline.formats.registry import checked_options, find_format
    from export_pipeline.packages.convert import convert as convert_package
    from export_pipeline.packages.layers import lock_of
    from export_pipeline.packages.parts import Form

    format_ = find_format(given["format_"])
    chosen = {**file_options(given), "format": format_.name, "json_mode": given["json_mode"]}
    options = checked_options(format_, chosen)
    keys = opening_keys(given)
    form = Form(format_, options, lock_of(options, ask_for_passphrase() if options.passphrase else None))
    with counting_bar("writing") as on_documents:
        manifest = convert_package(package, form, chosen, output.absolute(), keys, on_documents)
    print_written(manifest, output, as_json)
