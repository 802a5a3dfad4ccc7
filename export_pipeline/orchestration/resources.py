"""The one resource: the library, opened from the settings.

It has no configuration of its own, since Dagster's UI shows configuration to everybody and settings hold secrets.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from export_pipeline.errors import ExportPipelineError
from export_pipeline.exporter import Exporter
from export_pipeline.settings import Settings

EXPORTER = "exporter"


def exporter_resource(settings: Settings | None) -> dg.ResourceDefinition:
    """Return the resource; without ``settings`` each process reads them from its environment when it starts."""

    @dg.resource(description="The export library, opened from the settings (see 'export-pipeline settings').")
    def exporter(_context: dg.InitResourceContext) -> Iterator[Exporter]:
        with Exporter(settings or Settings.load()) as opened:
            yield opened

    return exporter


@contextmanager
def lasting_failures() -> Iterator[None]:
    """Show the library's errors as Dagster failures: their message alone, and no retry of what would fail again."""
    try:
        yield
    except ExportPipelineError as error:
        raise dg.Failure(f"{error.code}: {error}", allow_retries=False) from None
