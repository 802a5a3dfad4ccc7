"""The schedules, and the job that they launch: packages whose time is over are removed."""

from datetime import UTC, datetime

import dagster as dg

from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.launching_runs import launching_run
from export_pipeline.orchestration.names import BATCH_PARTITIONS
from export_pipeline.orchestration.resources import lasting_failures


@dg.op(description="Removes the packages whose time is over, and what Dagster knows of them.")
def remove_expired(context: dg.OpExecutionContext, exporter: dg.ResourceParam[Exporter]) -> None:
    """Remove each expired package's files, the run that asked for it, and its batch's partition."""
    with lasting_failures():
        expired = exporter.requests.expired(datetime.now(UTC))
        for request in expired:
            exporter.expire(request)
            asked_by = launching_run(request)
            if asked_by is not None and context.instance.has_run(asked_by):
                # Its configuration holds a uid.
                context.instance.delete_run(asked_by)
        for batch_id in {request.batch_id for request in expired if request.batch_id}:
            statuses = {request.status for request in exporter.requests.of_batch(batch_id)}
            # Deleting a partition under a live run would lose that run's work.
            if not statuses & {"running", "completed"}:
                context.instance.delete_dynamic_partition(str(BATCH_PARTITIONS.name), batch_id)
    context.add_output_metadata({"expired": len(expired)})


@dg.job(description="Remove packages whose time is over.", executor_def=dg.in_process_executor)
def expire_packages() -> None:
    """Run the one op."""
    remove_expired()


expire_packages_hourly = dg.ScheduleDefinition(
    name="expire_packages_hourly",
    job=expire_packages,
    cron_schedule="17 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
