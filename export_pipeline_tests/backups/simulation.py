"""An installation under a simulated clock: orders become rows, and after a while backups with files."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event, insert, update

from export_pipeline.backups.present import BackupReader
from export_pipeline.backups.removal import backup_folder, remove_backup
from export_pipeline.backups.schedules import Schedule, ScheduleStore
from export_pipeline.backups.serving import Served, serve
from export_pipeline.installation import Installation
from export_pipeline.requests.backups import BackupRequests, NewBackup
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.models import Request
from export_pipeline.requests.schema import export_requests

TAKES = timedelta(minutes=10)
ASYNCHRONOUS = "PRAGMA synchronous = OFF"


NOW = datetime.now(UTC)
ROW: dict[str, Any] = {
    "kind": "app_backup",
    "app_id": "app",
    "selection": {},
    "options": {"format": "bson"},
    "status": "completed",
    "attempt": 1,
    "priority": 0,
    "requested_by": "test",
    "requested_at": NOW,
    "updated_at": NOW,
    "documents_done": 0,
    "bytes_written": 0,
}


def make_request(installation: Installation, **columns: Any) -> Request:
    """Insert a row: a completed full backup, unless it is said otherwise."""
    request_id = new_id()
    with installation.database.begin() as connection:
        connection.execute(insert(export_requests), {"id": request_id, **ROW, **columns})
    return installation.requests.get(request_id)


def tick_of(order: NewBackup) -> datetime:
    """The tick that an order is for."""
    return datetime.fromisoformat(str(order.idempotency_key).split(":", 2)[2])


class Simulation:
    """Call ``step`` with one moment after another."""

    def __init__(self, installation: Installation, fails: Callable[[NewBackup], bool] = lambda _: False) -> None:
        self.installation = installation
        # A month is thousands of transactions, and no power cut is simulated.
        event.listen(installation.database, "connect", lambda connection, _: connection.execute(ASYNCHRONOUS))
        installation.database.dispose()
        self.schedules = ScheduleStore(installation.database)
        self.reader = BackupReader(installation.database)
        self.orders: list[NewBackup] = []
        self._fails = fails
        self._under_way: dict[str, tuple[datetime, str]] = {}
        self._now = datetime.min.replace(tzinfo=UTC)

    def step(self, now: datetime) -> Served:
        """End what is under way for long enough, then serve the schedules."""
        self._now = now
        for request_id, (ends, status) in list(self._under_way.items()):
            if ends <= now:
                self._end(request_id, status)
        return serve(self.schedules, self.reader, self.submit, self.remove, now)

    def submit(self, new: NewBackup) -> Request:
        known = {request.id for request in self.reader.present()}
        request = BackupRequests(self.installation.database).submit(new)
        if request.id not in known:
            self.orders.append(new)
            self._set(request.id, requested_at=self._now, status="running")
            self._under_way[request.id] = (self._now + TAKES, "failed" if self._fails(new) else "completed")
        return request

    def remove(self, request: Request) -> None:
        remove_backup(self.installation.requests, self.installation.storage, request)

    def _end(self, request_id: str, status: str) -> None:
        del self._under_way[request_id]
        self._set(request_id, status=status)
        if status == "completed":
            folder = backup_folder(self.installation.requests.get(request_id))
            with self.installation.storage.create(f"{folder}/manifest.json") as file:
                file.commit()

    def _set(self, request_id: str, **values: Any) -> None:
        with self.installation.database.begin() as connection:
            statement = update(export_requests).where(export_requests.c.id == request_id)
            connection.execute(statement.values(updated_at=self._now, **values))

    def present(self, schedule: Schedule) -> list[Request]:
        """The schedule's completed backups, the oldest first."""
        of = [request for request in self.reader.present() if request.options.get("schedule_id") == schedule.id]
        return sorted((each for each in of if each.status == "completed"), key=lambda each: each.requested_at)
