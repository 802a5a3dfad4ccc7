"""The jobs: asking for an export from the UI or GraphQL, serving a batch, and removing what has expired."""

import dagster as dg
from pydantic import Field

from export_pipeline.catalog.narrowing import parse_narrowing
from export_pipeline.errors import BadInputError
from export_pipeline.examples import EXAMPLE_APP_ID, EXAMPLE_UID
from export_pipeline.exporter import Exporter
from export_pipeline.formats.registry import FORMATS, JSON_MODES
from export_pipeline.orchestration.checks import catalog_drift
from export_pipeline.orchestration.launching_runs import asked_by_run, report_to_launching_run
from export_pipeline.orchestration.names import BACKUPS
from export_pipeline.orchestration.resources import lasting_failures
from export_pipeline.requests.models import DEFAULT_FORMAT, DEFAULT_JSON_MODE, NewRequest, Request
from export_pipeline.slices.estimate import Estimate


class RequestExport(dg.Config):
    """What the form of ``request_export`` asks for.

    The app and the uids have no default on purpose: what somebody forgot to fill in must not export somebody else.
    """

    app_id: str = Field(description="The app whose user it is.")
    uids: list[str] = Field(
        default_factory=list,
        description="The uids of the person; all go into one file. This is the one place where a uid enters "
        "Dagster: use no e-mail address here. Leave it out when you give an export_id.",
    )
    export_id: str | None = Field(
        default=None,
        description="Instead of uids: the Export ID of a request made elsewhere. A failed one is tried again; "
        "any other is just followed.",
    )
    format: str = Field(default=DEFAULT_FORMAT, description=f"The file's format: {', '.join(FORMATS)}.")
    json_mode: str = Field(
        default=DEFAULT_JSON_MODE,
        description=f"For JSON: {' or '.join(JSON_MODES)}. Relaxed is easy to read, canonical keeps every BSON type.",
    )
    compression: str = Field(default="none", description="For JSON and BSON: none, gzip or (JSON) zstd.")
    split_bytes: int | None = Field(
        default=None, description="The most bytes of one file; what is more goes to further parts, each a whole file."
    )
    recipients: list[str] = Field(
        default_factory=list,
        description="Encrypt with age: only the holders of these public keys (age1…) can open the file. A passphrase "
        "has no place here, since configuration is shown to everybody: give it with 'export-pipeline request'.",
    )
    since: str | None = Field(default=None, description="Only from this moment on: 2026-01-31 or 2026-01-31T12:00:00Z.")
    until: str | None = Field(default=None, description="Only before this moment.")
    collections: list[str] = Field(default_factory=list, description="Only these entries of the catalogue.")
    exclude_collections: list[str] = Field(default_factory=list, description="Not these entries of the catalogue.")
    plugins: list[str] = Field(default_factory=list, description="Only these plugins' collections.")
    categories: list[str] = Field(default_factory=list, description="Only these categories of data.")
    profile: str | None = Field(
        default=None,
        description="access: everything, with a notice (GDPR article 15); portability: what the person provided "
        "(article 20).",
    )
    dry_run: bool = Field(
        default=False,
        description="Make no request; only say, in this op's metadata, how much it would hold and which queries no "
        "index serves.",
    )

    def new_request(self, requested_by: str) -> NewRequest:
        """Return the request that the form asks for. Raises BadInputError."""
        part = {
            "since": self.since,
            "until": self.until,
            "collections": self.collections,
            "exclude_collections": self.exclude_collections,
            "plugins": self.plugins,
            "categories": self.categories,
            "profile": self.profile,
        }
        return NewRequest(
            app_id=self.app_id,
            uids=self.uids,
            format=self.format,
            json_mode=self.json_mode,
            requested_by=requested_by,
            narrowing=parse_narrowing({name: value for name, value in part.items() if value not in (None, [])}),
            file_options={
                name: value
                for name, value in (
                    ("compression", self.compression),
                    ("split_bytes", self.split_bytes),
                    ("recipients", self.recipients),
                )
                if value not in (None, [], "none")
            },
        )


@dg.op(
    description="Puts one request into the requests table; a sensor takes it from there. The run's tags tell the "
    "Export ID and, as it changes, the request's status.",
)
def submit_request(context: dg.OpExecutionContext, config: RequestExport, exporter: dg.ResourceParam[Exporter]) -> None:
    """Insert the request, or follow one that exists."""
    with lasting_failures():
        asked_by = asked_by_run(context.run_id)
        if config.export_id is not None:
            if config.uids:
                raise BadInputError("give either uids or an export_id, not both")
            request = _follow(exporter, config, asked_by)
        elif config.dry_run:
            context.add_output_metadata(_estimate_metadata(exporter.estimate(config.new_request(asked_by))))
            return
        else:
            request = exporter.submit(config.new_request(asked_by))
    report_to_launching_run(context.instance, request)
    context.add_output_metadata({"export_id": request.id, "status": request.status})


def _follow(exporter: Exporter, config: RequestExport, asked_by: str) -> Request:
    request = exporter.requests.get(str(config.export_id))
    if request.app_id != config.app_id:
        raise BadInputError("the request with this Export ID is not one of this app")
    if request.status != "failed":
        return request
    exporter.requests.retry(request.id, asked_by)
    return exporter.requests.get(request.id)


def _estimate_metadata(estimate: Estimate) -> dict[str, dg.MetadataValue]:
    columns = ("collection", "outcome", "documents", "bytes", "full_scan")
    return {
        "documents": dg.MetadataValue.int(estimate.documents),
        "bytes_about": dg.MetadataValue.int(estimate.bytes),
        "warnings": dg.MetadataValue.md("\n".join(f"- {warning}" for warning in estimate.warnings) or "none"),
        "collections": dg.MetadataValue.table(
            records=[
                dg.TableRecord({column: getattr(item, column) for column in columns}) for item in estimate.collections
            ]
        ),
    }


@dg.job(
    description="Ask for all that is held on a user. Fill in app_id and uids and launch: the request is made at "
    "once, and the sensor pending_requests starts its export. Runs of this job are deleted once their request has "
    "expired, since their configuration holds a uid.",
    executor_def=dg.in_process_executor,
    # What the form opens with: it works on the demo's data as it stands.
    config={
        "ops": {
            "submit_request": {
                "config": {"app_id": EXAMPLE_APP_ID, "uids": [EXAMPLE_UID], "format": "json", "json_mode": "relaxed"}
            }
        }
    },
)
def request_export() -> None:
    """Run the one op."""
    submit_request()


export_users = dg.define_asset_job(
    "export_users",
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets(BACKUPS) - dg.AssetSelection.checks(catalog_drift),
    # Ten small steps take 2 s in one process and 10 s in ten.
    executor_def=dg.in_process_executor,
    description="Export the users of one batch: its plan, its slices, its packages. The sensor pending_requests "
    "launches it; to ask for an export, launch request_export.",
)
