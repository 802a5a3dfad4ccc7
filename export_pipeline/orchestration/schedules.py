"""The schedules, and the jobs that they launch: removing what has expired or was left over, and watching due dates."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg

from export_pipeline.backups.removal import sweep_backups
from export_pipeline.backups.restoring import Restores
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.launching_runs import launching_run
from export_pipeline.orchestration.names import BATCH_PARTITIONS
from export_pipeline.orchestration.resources import lasting_failures
from export_pipeline.orchestration.run_history import delete_run
from export_pipeline.packages.removal import stale_batches
from export_pipeline.requests.models import Request

OURS = (
    *("backup_app", "check_catalog", "erase_user", "expire_packages", "export_users"),
    *("request_export", "restore_backup", "watch_due_dates"),
)
"""The jobs whose runs are pruned."""

OVER = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
PRUNING_TAKES_AT_MOST = timedelta(minutes=10)
RUNS_AT_A_TIME = 100


@dg.op(description="Removes the packages whose time is over, and what Dagster knows of them.")
def remove_expired(context: dg.OpExecutionContext, exporter: dg.ResourceParam[Exporter]) -> None:
    """Remove each expired package's files and the run that asked for it; what fails does not hold up the rest."""
    with lasting_failures():
        expired = exporter.requests.expired(datetime.now(UTC))
        removed = [request for request in expired if exporter.expire(request)]
        for request in removed:
            asked_by = launching_run(request)
            if asked_by is not None and context.instance.has_run(asked_by):
                # Its configuration holds a uid.
                delete_run(context.instance, asked_by)
        _delete_partitions(context.instance, exporter, {str(request.batch_id) for request in removed})
    context.add_output_metadata({"expired": len(removed), "problems": len(expired) - len(removed)})
    if len(removed) < len(expired):
        ids = ", ".join(request.id for request in expired if request not in removed)
        raise dg.Failure(f"{len(expired) - len(removed)} expired packages could not be removed: {ids}; see the log")


@dg.op(description="Removes what crashed or cancelled work left: slices, folders, half-written files, partitions.")
def remove_leftovers(context: dg.OpExecutionContext, exporter: dg.ResourceParam[Exporter]) -> None:
    """Sweep the storage, the kept secrets, and Dagster's partitions."""
    with lasting_failures():
        swept = exporter.sweep()
        backups = sweep_backups(exporter, datetime.now(UTC))
        Restores(exporter).tidy(datetime.now(UTC))
        partitions = context.instance.get_dynamic_partitions(str(BATCH_PARTITIONS.name))
        stale = stale_batches(partitions, exporter.requests, datetime.now(UTC))
        gone = _delete_partitions(context.instance, exporter, set(stale))
    context.add_output_metadata(
        {
            "slices": swept.slices,
            "packages": swept.packages,
            "backups": len(backups),
            "files": swept.files,
            "secrets": swept.secrets,
            "partitions": gone,
            "problems": swept.problems,
        }
    )
    if swept.problems:
        raise dg.Failure(f"{swept.problems} leftovers could not be removed; the log says which and why")


def _delete_partitions(instance: dg.DagsterInstance, exporter: Exporter, batch_ids: Iterable[str]) -> int:
    """Delete the partitions of batches that have neither running nor completed requests; return how many."""
    gone = 0
    for batch_id in batch_ids:
        statuses = {request.status for request in exporter.requests.of_batch(batch_id)}
        # Deleting a partition under a live run would lose that run's work.
        if not statuses & {"running", "completed"}:
            instance.delete_dynamic_partition(str(BATCH_PARTITIONS.name), batch_id)
            gone += 1
    return gone


@dg.op(description="Removes finished runs, with their events, from Dagster's storage once they are old.")
def prune_runs(context: dg.OpExecutionContext, exporter: dg.ResourceParam[Exporter]) -> None:
    """Delete old finished runs of our jobs, the oldest first, for as long as the time allows."""
    deadline = time.monotonic() + PRUNING_TAKES_AT_MOST.total_seconds()
    before = datetime.now(UTC) - exporter.settings.run_retention
    deleted = 0
    for job in OURS:
        filters = dg.RunsFilter(job_name=job, statuses=OVER, updated_before=before)
        while time.monotonic() < deadline and (
            runs := context.instance.get_runs(filters=filters, limit=RUNS_AT_A_TIME, ascending=True)
        ):
            for run in runs:
                delete_run(context.instance, run.run_id)
            deleted += len(runs)
    context.add_output_metadata({"deleted": deleted})


@dg.job(
    description="Remove packages whose time is over, what crashes left, and old runs.",
    executor_def=dg.in_process_executor,
)
def expire_packages() -> None:
    """Run the ops, none of which needs another."""
    remove_expired()
    remove_leftovers()
    prune_runs()


@dg.op(description="Warns of unfinished requests that are due soon, and fails where one is overdue.")
def check_due_dates(context: dg.OpExecutionContext, exporter: dg.ResourceParam[Exporter]) -> None:
    """Record a warning and an alarm once for each due date; fail as long as anything is overdue."""
    with lasting_failures():
        now = datetime.now(UTC)
        due = exporter.requests.due_before(now + exporter.settings.due_soon)
        overdue = [request for request in due if request.due_at is not None and request.due_at <= now]
        for request in due:
            late = request in overdue
            if exporter.requests.warn_once(request, "overdue" if late else "due_warning"):
                _say(context, request, late=late)
    context.add_output_metadata({"due_soon": len(due) - len(overdue), "overdue": len(overdue)})
    if overdue:
        ids = ", ".join(request.id for request in overdue[:20])
        raise dg.Failure(f"{len(overdue)} requests are past their due date: {ids}; see 'export-pipeline status'")


def _say(context: dg.OpExecutionContext, request: Request, *, late: bool) -> None:
    when = f"request {request.id} ({request.status}) {'was' if late else 'is'} due {request.due_at:%Y-%m-%d %H:%M} UTC"
    if late:
        context.log.error(when)
    else:
        context.log.warning(when)


@dg.job(
    description="Warn of requests that are due soon; fail, so that alerts fire, while one is overdue.",
    executor_def=dg.in_process_executor,
)
def watch_due_dates() -> None:
    """Run the one op."""
    check_due_dates()


expire_packages_hourly = dg.ScheduleDefinition(
    name="expire_packages_hourly",
    job=expire_packages,
    cron_schedule="17 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

watch_due_dates_every_six_hours = dg.ScheduleDefinition(
    name="watch_due_dates_every_six_hours",
    job=watch_due_dates,
    cron_schedule="41 */6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
