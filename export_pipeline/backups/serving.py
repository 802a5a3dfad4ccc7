"""Serving the schedules: one backup for what is due, and the removal of what has served.

The decisions are functions of a schedule, the backups that there are, and the time. Anybody may serve at any moment,
several processes at once too: the order for a tick is the same whoever makes it, and taken once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from export_pipeline.backups.form import check_form
from export_pipeline.backups.manifest import BackupOptions
from export_pipeline.backups.present import BackupReader
from export_pipeline.backups.retention import Backup, base_of_next, to_remove
from export_pipeline.backups.schedules import Schedule, ScheduleStore, StaleScheduleError
from export_pipeline.backups.ticks import due_tick, find_zone
from export_pipeline.errors import ExportPipelineError
from export_pipeline.requests.backups import BackupUnderWayError, NewBackup
from export_pipeline.requests.models import Request
from export_pipeline.requests.submitting import IdempotencyConflictError

MOST_REMOVALS = 20
"""Of each serving: a sensor's tick has 60 s, and a large folder on S3 takes a while."""


@dataclass(frozen=True, slots=True)
class Order:
    """The backup that a schedule wants for a tick."""

    schedule: Schedule
    tick: datetime
    base: str | None
    """The id of the backup to build on; None: a full one."""

    @property
    def request(self) -> NewBackup:
        """What is asked of the requests table. Whoever orders the same tick again gets the backup that there is."""
        return NewBackup(
            self.schedule.app_id,
            form=self.schedule.options,
            base=self.base,
            storage=self.schedule.storage,
            schedule_id=self.schedule.id,
            requested_by=f"schedule:{self.schedule.id}",
            idempotency_key=f"schedule:{self.schedule.id}:{self.tick:%Y-%m-%dT%H:%MZ}",
        )


@dataclass(frozen=True, slots=True)
class Served:
    """What one serving did: the ids of the backups that it ordered and removed, and what went wrong, for people."""

    ordered: tuple[str, ...]
    removed: tuple[str, ...]
    problems: tuple[str, ...]


def serve(
    schedules: ScheduleStore,
    requests: BackupReader,
    submit: Callable[[NewBackup], Request],
    remove: Callable[[Request], None],
    now: datetime,
) -> Served:
    """Order the backups that are due by ``submit``, and ``remove`` up to MOST_REMOVALS that have served.

    An app has one backup at a time; the schedule that was served least recently comes first. A schedule that cannot
    be served does not hold up the others; it is tried again the next time. Raises RequestsDatabaseError.
    """
    ordered: list[str] = []
    removed: list[str] = []
    problems: list[str] = []
    present, needed = requests.present(), requests.read_by_restores()
    enabled = [schedule for schedule in schedules.all() if schedule.enabled]
    for schedule in sorted(enabled, key=lambda schedule: schedule.served_until):
        try:
            order = due_order(schedule, _of_schedule(present, schedule), now)
            if order is not None:
                ordered += _place(schedules, order, submit)
            for request in served_backups(schedule, present, needed, now)[: MOST_REMOVALS - len(removed)]:
                remove(request)
                removed.append(request.id)
        except ExportPipelineError as error:
            problems.append(f"schedule {schedule.id} could not be served: {error.code}: {error}")
    return Served(tuple(ordered), tuple(removed), tuple(problems))


def due_order(schedule: Schedule, past: Sequence[Request], now: datetime) -> Order | None:
    """Return the order for what is due by a schedule whose backups are ``past``; None where nothing is.

    While one of its backups is under way the next waits, so that slow ones do not pile up; then it stands for all the
    ticks of that time.
    """
    if not schedule.enabled or any(request.is_live for request in past):
        return None
    tick = due_tick(schedule.cron, find_zone(schedule.time_zone), schedule.served_until, now)
    if tick is None:
        return None
    base = base_of_next([backup_of(request) for request in past], schedule.full_every)
    alike = {request.id for request in past if _place_and_form(request.options) == _wanted(schedule)}
    return Order(schedule, tick, None if base is None or base.id not in alike else base.id)


def served_backups(schedule: Schedule, present: Sequence[Request], needed: set[str], now: datetime) -> list[Request]:
    """Return those of all the ``present`` backups that the schedule made and that have served; see ``to_remove``.

    What another one builds on stays, and so do the ``needed`` ones.
    """
    own = {request.id: request for request in _of_schedule(present, schedule)}
    others = {
        str(request.options["base"]) for request in present if request.id not in own and "base" in request.options
    }
    zone = find_zone(schedule.time_zone)
    backups = [backup_of(request) for request in own.values()]
    gone = to_remove(backups, schedule.retention, zone, now, needed=needed | others)
    return [own[backup.id] for backup in gone]


def backup_of(request: Request) -> Backup:
    """Return what retention has to know of a backup's row."""
    return Backup(request.id, request.requested_at, request.status, request.options.get("base"))


def _place(schedules: ScheduleStore, order: Order, submit: Callable[[NewBackup], Request]) -> list[str]:
    """Submit an order and record that its tick is served; return the backup's id, if it is known."""
    # In this order: a crash between the two makes the same order once more, which finds the backup that there is.
    ids = []
    try:
        ids.append(submit(order.request).id)
    except BackupUnderWayError:
        return []  # another one of the app: it is still due when that is over
    except IdempotencyConflictError:
        pass  # ordered before, on another base
    with suppress(StaleScheduleError):  # another process was faster, or somebody has just changed the schedule
        schedules.mark_served(order.schedule, order.tick)
    return ids


def _of_schedule(present: Sequence[Request], schedule: Schedule) -> list[Request]:
    return [request for request in present if request.options.get("schedule_id") == schedule.id]


def _place_and_form(options: Mapping[str, Any]) -> tuple[str | None, BackupOptions]:
    """Return what a backup and its base have in common: one reads them from one place, with one key."""
    form = {name: options[name] for name in BackupOptions.model_fields if name in options}
    return options.get("storage"), check_form(form)


def _wanted(schedule: Schedule) -> tuple[str | None, BackupOptions]:
    return schedule.storage, check_form(schedule.options)
