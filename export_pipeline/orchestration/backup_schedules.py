"""The sensor that serves the schedules of backups. It keeps no cursor: the tables say what has been served."""

from datetime import UTC, datetime

import dagster as dg

from export_pipeline.backups.present import BackupReader
from export_pipeline.backups.removal import remove_backup, storage_of
from export_pipeline.backups.schedules import ScheduleStore
from export_pipeline.backups.serving import Served, serve
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.resources import lasting_failures
from export_pipeline.requests.backups import BackupRequests
from export_pipeline.requests.models import Request


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for the backups that schedules have due, and removes those that have served.",
)
def backup_schedules(exporter: dg.ResourceParam[Exporter]) -> dg.SkipReason:
    """Serve once. It launches nothing itself: the row of a backup is what starts it."""
    with lasting_failures():
        served = serve_now(exporter)
    if served.problems:
        # What was served, is; the next tick goes on with the rest.
        raise dg.Failure("; ".join(served.problems))
    if served.ordered or served.removed:
        return dg.SkipReason(f"{len(served.ordered)} backups are asked for, {len(served.removed)} removed")
    return dg.SkipReason("nothing is due")


def serve_now(exporter: Exporter) -> Served:
    """Serve the schedules of an installation. Raises RequestsDatabaseError."""

    def remove(request: Request) -> None:
        remove_backup(exporter.requests, storage_of(exporter, request), request)

    database = exporter.database
    submit = BackupRequests(database).submit
    return serve(ScheduleStore(database), BackupReader(database), submit, remove, datetime.now(UTC))
