"""The jobs that bring a backup back and that erase a person, with forms for Dagster's UI and GraphQL.

Neither takes a secret or a uid: configuration is shown to everybody who reaches the UI, and kept.
"""

import dagster as dg
from pydantic import Field

from export_pipeline.backups.erase import Erasures
from export_pipeline.backups.restore import RestoreReport
from export_pipeline.backups.restore_plan import Wish
from export_pipeline.backups.restoring import Restores
from export_pipeline.errors import BadInputError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.launching_runs import asked_by_run
from export_pipeline.orchestration.names import BATCH_TAG
from export_pipeline.orchestration.resources import lasting_failures
from export_pipeline.orchestration.row_work import TAGS, at_work, begin_row, row_of_run
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import Request
from export_pipeline.requests.restores import KIND, RestoreRequests

RESTORES_AT_A_TIME = 4


class RestoreBackup(dg.Config):
    """What the form of ``restore_backup`` asks for."""

    backup: str = Field(description="The backup's id, or the folder that it was copied to.")
    to_database: list[str] = Field(
        description="Where to, on the installation's MongoDB: an empty database, or a new one; OLD=NEW for each of "
        "several. An encrypted backup, or another MongoDB, needs 'export-pipeline restore'."
    )
    app_id: str | None = Field(default=None, description="Another id for the app than it had.")
    without: list[str] = Field(default_factory=list, description="Leave these collections out.")
    threads: int = Field(default=2, ge=1, le=64, description="How many parts at a time.")
    dry_run: bool = Field(default=True, description="Check every part, and whether the target takes it; write nothing.")

    @property
    def wish(self) -> Wish:
        """The same for the library."""
        return Wish(tuple(self.to_database), self.app_id, tuple(self.without), self.threads)


@dg.op(description="Checks every part and the target, then loads, compares with the manifest, and builds the indexes.")
def restore(context: dg.OpExecutionContext, config: RestoreBackup, exporter: dg.ResourceParam[Exporter]) -> None:
    """Restore, or say what would be. A run that nobody asked for by a row makes its row first."""
    restores = Restores(exporter)
    with lasting_failures():
        request = row_of_run(context, exporter)
        if request is None:
            restoring = restores.open(config.backup, config.wish)
            if config.dry_run:
                context.add_output_metadata(_restored(restoring.check()))
                return
            request = restores.submit(restoring, config.backup, asked_by_run(context.run_id), run_here=True)
        elif request.status == "completed":  # by a run that did not live to say so
            restores.tidy_one(request)
            context.log.info("restore %s is completed already", request.id)
            return
        else:
            restoring = restores.open_of(request)
        begin_row(context, exporter, request)
    with at_work(context, exporter, request, "restore") as lease:
        context.add_output_metadata(_restored(restores.work(request, restoring, lease)))


def _restored(report: RestoreReport) -> dict[str, dg.MetadataValue]:
    columns = ("database", "collection", "kind", "documents", "left_out", "detached", "exact")
    return {
        "dry_run": dg.MetadataValue.bool(report.dry_run),
        "documents": dg.MetadataValue.int(report.documents),
        "left_out": dg.MetadataValue.int(report.left_out),
        "seconds": dg.MetadataValue.float(report.seconds),
        "collections": dg.MetadataValue.table(
            records=[
                dg.TableRecord({column: getattr(each, column) for column in columns}) for each in report.collections
            ]
        ),
    }


@dg.job(
    description="Bring a backup back into an empty database. As the form opens it is a dry run, which writes nothing. "
    "A run that was interrupted is taken up by another one, and continues.",
    executor_def=dg.in_process_executor,
    tags=TAGS,
)
def restore_backup() -> None:
    """Run the one op."""
    restore()


@dg.sensor(
    job_name=restore_backup.name,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Claims restores that wait to be tried again, and asks for a run of each.",
)
def pending_restores(exporter: dg.ResourceParam[Exporter]) -> list[dg.RunRequest] | dg.SkipReason:
    """Claim first, then ask for runs of all that is claimed and not begun, like ``pending_backups``."""
    for request in RestoreRequests.beside(exporter.requests).waiting(RESTORES_AT_A_TIME):
        exporter.requests.claim(Batch(new_id(), (request.id,)))
    waiting = exporter.requests.unstarted_batches(KIND)
    if not waiting:
        return dg.SkipReason("no restore is pending")
    return [
        dg.RunRequest(
            run_key=f"{batch_id}:{attempt}",
            tags={BATCH_TAG: batch_id},
            run_config=_config_of(exporter.requests.of_batch(batch_id)[0]),
        )
        for batch_id, attempt in waiting.items()
    ]


def _config_of(request: Request) -> dg.RunConfig:
    """Return the form as somebody would have filled it in for a row."""
    known = {name: request.options[name] for name in ("backup", "to_database", "app_id", "without", "threads")}
    return dg.RunConfig(ops={"restore": RestoreBackup(**known, dry_run=False)})


class EraseUser(dg.Config):
    """What the form of ``erase_user`` asks for."""

    export_id: str = Field(
        description="The Export ID of a request for the person, made anywhere: it says who is erased, so that no uid "
        "enters Dagster."
    )
    confirm: str | None = Field(
        default=None,
        description="Leave it out for a dry run: it deletes nothing, counts, and tells its id. With that id, within a "
        "day, the documents that it counted are deleted.",
    )


@dg.op(description="Without confirmation, counts what would be deleted; with it, deletes and tells the receipt.")
def erase(context: dg.OpExecutionContext, config: EraseUser, exporter: dg.ResourceParam[Exporter]) -> None:
    """Take one of the two steps."""
    with lasting_failures():
        request = exporter.requests.get(config.export_id)
        uids = request.selection.get("uids", ())
        if not uids:
            raise BadInputError(
                "the request with this Export ID names no uid: it searched for its person, or the person was "
                "forgotten; use 'export-pipeline erase'"
            )
        erasures, actor = Erasures(exporter), asked_by_run(context.run_id)
        if config.confirm is None:
            erasure = erasures.count(request.app_id, uids, actor)
            counted = {each.collection: each.own + each.shared for each in erasure.counted.collections}
            context.add_output_metadata({"erasure_id": erasure.id, "deleted": False, "documents": _table(counted)})
        else:
            receipt = erasures.confirm(config.confirm, request.app_id, uids, actor)
            counted = {each.collection: each.deleted + each.detached for each in receipt.collections}
            context.add_output_metadata(
                {"erasure_id": receipt.erasure_id, "deleted": True, "documents": _table(counted)}
            )


def _table(counted: dict[str, int]) -> dg.MetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({"collection": name, "documents": documents}) for name, documents in counted.items()]
    )


@dg.job(
    description="Erase a person over the whole catalogue, in two steps: launch it with an Export ID of theirs, read "
    "what it counted, and launch it again with the erasure's id as confirmation.",
    executor_def=dg.in_process_executor,
)
def erase_user() -> None:
    """Run the one op."""
    erase()
