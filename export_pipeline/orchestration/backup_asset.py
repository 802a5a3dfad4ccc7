"""Backups under Dagster: an asset made of steps (plan, parts in parallel, seal), its job, and the sensor for rows.

The steps hand each other nothing but their order: what they need lies in the requests table and in the backup's
folder, so any executor on any machine may take any of them, again and again.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import Any

import dagster as dg

from export_pipeline.backups.backup import Backups
from export_pipeline.backups.plan import BackupPlan, PlannedPart
from export_pipeline.backups.planning import LANES
from export_pipeline.backups.removal import FOLDER_OF_ALL_APPS
from export_pipeline.backups.write import PartRecord
from export_pipeline.errors import StaleRequestError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.launching_runs import asked_by_run
from export_pipeline.orchestration.names import APP, BACKUP_APPS, BACKUP_PARTITIONS, BACKUPS, BATCH_TAG, DAY, GROUP
from export_pipeline.orchestration.resources import lasting_failures
from export_pipeline.orchestration.row_work import TAGS, at_work, begin_row, row_of_run
from export_pipeline.requests.backups import KIND, BackupRequests, NewBackup
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import ALL_APPS, Request

PARTS_OF_A_STEP = 8
"""Some 800 MB by default: enough that a step's own second does not count, few enough that steps spread."""

BACKUPS_AT_A_TIME = 4


@dg.op(
    out=dg.DynamicOut(dg.Nothing),
    description="Chooses the moment, and cuts the collections into parts; takes up the plan of a former attempt.",
)
def plan_backup(
    context: dg.OpExecutionContext, exporter: dg.ResourceParam[Exporter]
) -> Iterator[dg.DynamicOutput[None]]:
    """Plan. A run that nobody asked for by a row, such as one of a backfill, makes its row first."""
    with lasting_failures():
        request = row_of_run(context, exporter) or _ask_for(context, exporter)
        begin_row(context, exporter, request)
    backups = Backups(exporter)
    with at_work(context, exporter, request, "backup") as lease:
        if backups.sealed(request) is not None:
            steps = 0
        else:
            plan = backups.plan(request, lease.check)
            exporter.requests.set_totals(str(request.batch_id), {request.id: plan.expected})
            exporter.requests.progress(request.id, str(request.batch_id), documents_done=0, bytes_written=0)
            steps = len(steps_of(plan))
            context.log.info("%s parts of %s collections", len(plan.parts), len(plan.collections))
    for step in range(steps):
        yield dg.DynamicOutput(None, mapping_key=_key(step))


@dg.op(
    ins={"planned": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
    pool="mongodb",
    description="Writes some of the parts. Finished ones are taken up, so trying again writes what is missing.",
)
def write_parts(context: dg.OpExecutionContext, exporter: dg.ResourceParam[Exporter]) -> None:
    """Write the parts of one step, as many at a time as one connection after the other keeps the server busy with."""
    with lasting_failures():
        request = _must_run(context, exporter)
    backups = Backups(exporter)
    with at_work(context, exporter, request, "backup") as lease:
        plan = backups.load_plan(request)
        parts = next(parts for step, parts in enumerate(steps_of(plan)) if _key(step) == context.get_mapping_key())

        def write(part: PlannedPart) -> PartRecord:
            lease.check()
            is_counted = context.retry_number > 0 and backups.is_written(request, plan, part)
            record = backups.write_part(request, plan, part, lambda _: lease.check())
            if not is_counted:
                written = sum(file.file_bytes for file in record.files)
                exporter.requests.advance(
                    request.id, str(request.batch_id), documents=record.documents, bytes_written=written
                )
            return record

        with ThreadPoolExecutor(LANES) as pool:
            records = list(pool.map(write, parts))
    context.add_output_metadata(
        {
            "parts": len(records),
            "documents": sum(record.documents for record in records),
            "bytes": sum(file.file_bytes for record in records for file in record.files),
        }
    )


@dg.op(
    ins={"written": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
    description="Reads every part back, checks it, and publishes the manifest: from then on there is a backup.",
)
def seal_backup(context: dg.OpExecutionContext, exporter: dg.ResourceParam[Exporter]) -> None:
    """Seal, and record the backup as completed."""
    with lasting_failures():
        request = _must_run(context, exporter)
    backups = Backups(exporter)
    with at_work(context, exporter, request, "backup") as lease:
        manifest = backups.sealed(request) or backups.seal(request, backups.load_plan(request), lease.check)
        backups.complete(request, manifest)
    context.add_output_metadata(
        {
            "backup_id": request.id,
            "collections": len(manifest.collections),
            "documents": manifest.totals.documents,
            "bytes": manifest.totals.file_bytes,
        }
    )


@dg.graph_asset(
    key=BACKUPS,
    partitions_def=BACKUP_PARTITIONS,
    group_name=GROUP,
    kinds={"mongodb", "file"},
    description="A whole app at one point in time, in parts, with a manifest that proves them. A partition is an app "
    "and the day of its backup; one that is launched for a past day is made now, since MongoDB keeps no past.",
)
def backups() -> Any:
    """Put the steps together."""
    return seal_backup(plan_backup().map(write_parts).collect())


backup_app = dg.define_asset_job(
    "backup_app",
    selection=[BACKUPS],
    executor_def=dg.multi_or_in_process_executor,
    config={"execution": {"config": {"in_process": {}}}},
    tags=TAGS,
    description="Back up an app: pick its partition, or let 'export-pipeline backup', the HTTP API or a schedule ask "
    "for it. With the configuration execution: {config: {multiprocess: {}}} parts are written by several processes.",
)


@dg.sensor(
    job=backup_app,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Claims pending backups, and asks for a run of each.",
)
def pending_backups(
    context: dg.SensorEvaluationContext, exporter: dg.ResourceParam[Exporter]
) -> dg.SensorResult | dg.SkipReason:
    """Claim first, then ask for runs of all that is claimed and not begun, like ``pending_requests``."""
    for request in BackupRequests.beside(exporter.requests).waiting(BACKUPS_AT_A_TIME):
        exporter.requests.claim(Batch(new_id(), (request.id,)))
    waiting = exporter.requests.unstarted_batches(KIND)
    if not waiting:
        return dg.SkipReason("no backup is pending")
    requests = {batch_id: exporter.requests.of_batch(batch_id)[0] for batch_id in waiting}
    apps = {_partition_of(request.app_id) for request in requests.values()}
    new = sorted(apps - set(context.instance.get_dynamic_partitions(str(BACKUP_APPS.name))))
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{batch_id}:{attempt}",
                partition_key=partition_key(requests[batch_id]),
                tags={BATCH_TAG: batch_id},
            )
            for batch_id, attempt in waiting.items()
        ],
        dynamic_partitions_requests=[BACKUP_APPS.build_add_request(new)],
    )


def steps_of(plan: BackupPlan) -> Sequence[Sequence[PlannedPart]]:
    """Return which parts are written by which step."""
    return [plan.parts[first : first + PARTS_OF_A_STEP] for first in range(0, len(plan.parts), PARTS_OF_A_STEP)]


def partition_key(request: Request) -> dg.MultiPartitionKey:
    """Return the partition of a backup: its app, and the day on which it was asked for, in UTC."""
    day = request.requested_at.astimezone(UTC).date()
    return dg.MultiPartitionKey({APP: _partition_of(request.app_id), DAY: day.isoformat()})


def _partition_of(app_id: str) -> str:
    return FOLDER_OF_ALL_APPS if app_id == ALL_APPS else app_id


def _key(step: int) -> str:
    return f"step_{step:05}"


def _must_run(context: dg.OpExecutionContext, exporter: Exporter) -> Request:
    request = row_of_run(context, exporter)
    if request is None or request.status != "running":
        raise StaleRequestError("no backup is served by this run any more: it was cancelled, or given up")
    return request


def _ask_for(context: dg.OpExecutionContext, exporter: Exporter) -> Request:
    """Ask for the backup of the run's partition, and claim it."""
    if not context.has_partition_key:
        raise StaleRequestError("launch this job for a partition: an app, and a day")
    key = context.partition_key
    app = key.keys_by_dimension[APP] if isinstance(key, dg.MultiPartitionKey) else key
    new = NewBackup(ALL_APPS if app == FOLDER_OF_ALL_APPS else app, requested_by=asked_by_run(context.run_id))
    return Backups(exporter).submit(new, run_here=True)
