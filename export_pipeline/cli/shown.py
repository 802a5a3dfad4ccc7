"""What several commands show: bars while they work, and what a package holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from export_pipeline.packages.manifest import Manifest

stderr = Console(stderr=True)


def progress_bar() -> Progress:
    """Return a bar for work that is done of work that is known; invisible unless on a terminal."""
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
def counting_bar(what: str) -> Iterator[Callable[[int], None]]:
    """Show how many documents have been dealt with; yields a function that takes each further number of them."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda documents: bar.advance(task, documents)


def print_manifest(manifest: "Manifest") -> None:
    """Show a table of what became of each collection."""
    table = Table("collection", "outcome", "documents", "bytes")
    for report in manifest.collections:
        table.add_row(report.collection, report.outcome, f"{report.documents_written:,}", f"{report.bytes:,}")
    Console().print(table)


def print_written(manifest: "Manifest", output: Path, as_json: bool) -> None:  # as click hands it over
    """Say what was written to ``output``, its parts and its manifest."""
    if as_json:
        click.echo(manifest.model_dump_json())
        return
    from export_pipeline.packages.naming import manifest_name, part_path

    print_manifest(manifest)
    for number, part in enumerate(manifest.parts):
        documents = sum(part.documents.values())
        click.echo(f"{part_path(output, manifest, number)}: {documents:,} documents, {part.bytes:,} bytes")
    click.echo(f"{output.with_name(manifest_name(output.name))}: the manifest")
