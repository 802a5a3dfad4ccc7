"""The resources: the library, opened from the settings, and the S3 client that it stores with, if it does.

The library has no configuration of its own, since Dagster's UI shows configuration to everybody and settings hold
secrets.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.exporter import Exporter
from export_pipeline.settings import Settings
from export_pipeline.storage.s3 import SCHEME

EXPORTER = "exporter"
S3 = "s3"


def resources(settings: Settings | None) -> Mapping[str, Any]:
    """Return the resources; without ``settings`` each process reads them from its environment when it starts."""
    known = settings or Settings.load()
    if not known.storage_root.startswith(SCHEME):
        return {EXPORTER: exporter_resource(settings)}
    return {EXPORTER: exporter_resource(settings, {S3}), S3: s3_resource(known)}


def exporter_resource(settings: Settings | None, needs: set[str] | None = None) -> dg.ResourceDefinition:
    """Return the library as a resource, on top of the ones that it needs: the S3 client, or nothing."""

    @dg.resource(
        description="The export library, opened from the settings (see 'export-pipeline settings').",
        required_resource_keys=needs,
    )
    def exporter(context: dg.InitResourceContext) -> Iterator[Exporter]:
        client = context.resources.s3 if needs else None
        with Exporter(settings or Settings.load(), client) as opened:
            yield opened

    return exporter


def s3_resource(settings: Settings) -> Any:
    """Return dagster-aws' S3 resource, with the timeouts and checksums that our uploads count on."""
    try:
        from dagster_aws.s3 import S3Resource  # imported here: it costs a second, and directories need it not
    except ImportError:
        raise BadInputError(
            "EXPORT_PIPELINE_STORAGE names S3, which needs more: pip install 'export-pipeline[s3]'"
        ) from None
    from export_pipeline.storage import s3_client

    class ExportStore(S3Resource):
        def get_client(self) -> Any:
            return s3_client(self.endpoint_url, self.region_name)

    return ExportStore(endpoint_url=settings.s3_endpoint_url, region_name=settings.s3_region)


@contextmanager
def lasting_failures() -> Iterator[None]:
    """Show the library's errors as Dagster failures: their message alone, and no retry of what would fail again."""
    try:
        yield
    except ExportPipelineError as error:
        raise dg.Failure(f"{error.code}: {error}", allow_retries=False) from None
