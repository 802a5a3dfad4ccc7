"""The table of backup schedules: what a schedule is, the checks it passes, and its changes.

It can be changed at any moment; what is due and what has served is decided elsewhere, from its rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update

from export_pipeline.backups.form import check_form, check_incremental
from export_pipeline.backups.retention import Retention
from export_pipeline.backups.ticks import check_cron, find_zone, next_tick
from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.database import database_errors
from export_pipeline.requests.models import ALL_APPS, LONGEST_ACTOR, check_app_id
from export_pipeline.requests.rows import may_be_id
from export_pipeline.requests.schema import backup_schedules
from export_pipeline.storage.s3 import SCHEME, split_url

MOST_INCREMENTAL = 1000
"""The most that ``full_every`` may be: a restore reads a backup and all that it builds on."""

EDITABLE = ("cron", "time_zone", "options", "storage", "retention", "full_every")


class UnknownScheduleError(BadInputError):
    """No schedule has this id."""

    code = "unknown_schedule"


class StaleScheduleError(ExportPipelineError):
    """The schedule is no longer in the state that this change expects; somebody else moved it on."""

    code = "stale_schedule"


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to be made, checked: making one that is not allowed raises BadInputError."""

    app_id: str
    """``*``: all apps."""
    cron: str
    """Minute, hour, day of the month, month, day of the week."""
    time_zone: str = "UTC"
    """A name of the IANA database."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The form of its backups; see ``check_form``."""
    storage: str | None = None
    """The root that its backups go to, a directory or ``s3://bucket/prefix``; None: the installation's."""
    retention: Retention = field(default_factory=Retention)
    full_every: int = 1
    """1: each backup is a full one; n: every n-th, and the others build on the one before."""

    def __post_init__(self) -> None:
        if self.app_id != ALL_APPS:
            check_app_id(self.app_id)
        check_cron(self.cron)
        find_zone(self.time_zone)
        form = check_form(self.options)
        if self.storage is not None:
            _check_storage(self.storage)
        if type(self.full_every) is not int or not 1 <= self.full_every <= MOST_INCREMENTAL:
            raise BadInputError(
                f"full every: expected a whole number from 1 (each backup is a full one) to {MOST_INCREMENTAL}"
            )
        if self.full_every > 1:
            check_incremental(form)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A row of the table; for the first fields see ``NewSchedule``."""

    id: str
    app_id: str
    cron: str
    time_zone: str
    options: Mapping[str, Any]
    storage: str | None
    retention: Retention
    full_every: int
    enabled: bool
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    served_until: datetime
    """The ticks up to then have had their backup, or are none of its concern."""

    def next_tick(self) -> datetime | None:
        """Return when its next backup is due, in UTC: a moment that is past where one is due already."""
        if not self.enabled:
            return None
        return next_tick(self.cron, find_zone(self.time_zone), self.served_until)

    def shown(self) -> dict[str, Any]:
        """Return the schedule as JSON takes it, with its next tick."""
        row = asdict(self) | {"retention": self.retention.model_dump(), "next_tick": self.next_tick()}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


class ScheduleStore:
    """The table, open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, new: NewSchedule, actor: str, now: datetime | None = None) -> Schedule:
        """Insert a schedule; the first tick after now is its first."""
        _check_actor(actor)
        now = now or datetime.now(UTC)
        made = {"created_at": now, "created_by": actor, "updated_at": now, "updated_by": actor, "served_until": now}
        schedule_id = new_id()
        with self._writing() as connection:
            connection.execute(insert(backup_schedules), {"id": schedule_id, "enabled": True, **_columns(new), **made})
            return _the_one(connection, schedule_id)

    def get(self, schedule_id: str) -> Schedule:
        """Return a schedule. Raises UnknownScheduleError."""
        with self._reading() as connection:
            return _the_one(connection, schedule_id)

    def all(self, app_id: str | None = None) -> list[Schedule]:
        """Return the schedules, of one app or of all, the oldest first."""
        query = select(backup_schedules).order_by(backup_schedules.c.id)
        if app_id is not None:
            query = query.where(backup_schedules.c.app_id == app_id)
        with self._reading() as connection:
            return [_schedule(row) for row in connection.execute(query)]

    def edit(self, schedule_id: str, changes: Mapping[str, Any], actor: str, now: datetime | None = None) -> Schedule:
        """Change fields of a schedule, by their names in NewSchedule; all but the app. Raises UnknownScheduleError.

        Other times count from now on: what was due by the old ones and had no backup has none.
        """
        _check_actor(actor)
        unknown = sorted(set(changes) - set(EDITABLE))
        if unknown:
            raise BadInputError(
                f"schedule: what can be changed is {', '.join(EDITABLE)}; for another app, make a new one"
            )
        now = now or datetime.now(UTC)
        with self._writing() as connection:
            schedule = _the_one(connection, schedule_id, for_change=True)
            former = {name: getattr(schedule, name) for name in ("app_id", *EDITABLE)}
            new = NewSchedule(**former | dict(changes))
            moved = (new.cron, new.time_zone) != (schedule.cron, schedule.time_zone)
            served = {"served_until": now} if moved else {}
            return _change(connection, schedule_id, now, actor, **_columns(new), **served)

    def enable(self, schedule_id: str, actor: str, now: datetime | None = None) -> Schedule:
        """Let a schedule work from now on: the ticks until now are not caught up. Raises UnknownScheduleError."""
        _check_actor(actor)
        now = now or datetime.now(UTC)
        with self._writing() as connection:
            schedule = _the_one(connection, schedule_id, for_change=True)
            served = {} if schedule.enabled and schedule.served_until <= now else {"served_until": now}
            return _change(connection, schedule_id, now, actor, enabled=True, **served)

    def disable(self, schedule_id: str, actor: str, now: datetime | None = None) -> Schedule:
        """Let a schedule rest: nothing is made, nothing is removed. Raises UnknownScheduleError."""
        _check_actor(actor)
        with self._writing() as connection:
            _the_one(connection, schedule_id, for_change=True)
            return _change(connection, schedule_id, now or datetime.now(UTC), actor, enabled=False)

    def remove(self, schedule_id: str) -> None:
        """Remove a schedule; its backups stay, until somebody removes them. Raises UnknownScheduleError."""
        with self._writing() as connection:
            _the_one(connection, schedule_id, for_change=True)
            connection.execute(delete(backup_schedules).where(backup_schedules.c.id == schedule_id))

    def mark_served(self, schedule: Schedule, tick: datetime) -> None:
        """Record that a tick has its backup.

        Raises StaleScheduleError unless the schedule is as it was read: enabled, and served until the same moment.
        """
        table = backup_schedules.c
        statement = (
            update(backup_schedules)
            .where(table.id == schedule.id, table.enabled, table.served_until == schedule.served_until)
            .values(served_until=tick)
        )
        with self._writing() as connection:
            if connection.execute(statement).rowcount != 1:
                raise StaleScheduleError(f"schedule {schedule.id} has been served, changed or removed meanwhile")

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with database_errors(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")  # readers take no write lock

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with database_errors(), self._engine.begin() as connection:
            yield connection


def _the_one(connection: Connection, schedule_id: str, *, for_change: bool = False) -> Schedule:
    query = select(backup_schedules).where(backup_schedules.c.id == schedule_id)
    locked = query.with_for_update() if for_change else query
    row = connection.execute(locked).first() if may_be_id(schedule_id) else None
    if row is None:
        raise UnknownScheduleError("no schedule has this id; 'export-pipeline schedule list' lists them")
    return _schedule(row)


def _change(connection: Connection, schedule_id: str, now: datetime, actor: str, **values: Any) -> Schedule:
    where = backup_schedules.c.id == schedule_id
    connection.execute(update(backup_schedules).where(where).values(updated_at=now, updated_by=actor, **values))
    return _the_one(connection, schedule_id)


def _schedule(row: Row[Any]) -> Schedule:
    values = {column.name: getattr(row, column.name) for column in fields(Schedule)}
    return Schedule(**values | {"retention": Retention.model_validate(row.retention)})


def _columns(new: NewSchedule) -> dict[str, Any]:
    row = {column.name: getattr(new, column.name) for column in fields(NewSchedule)}
    return row | {"options": dict(new.options), "retention": new.retention.model_dump(exclude_defaults=True)}


def _check_storage(root: str) -> None:
    if not root.startswith(("/", SCHEME)):
        raise BadInputError("storage: expected a directory's whole path, from / on, or s3://bucket/prefix")
    if root.startswith(SCHEME):
        split_url(root)


def _check_actor(actor: str) -> None:
    if len(actor) > LONGEST_ACTOR:
        raise BadInputError(f"created by: at most {LONGEST_ACTOR} characters are allowed")
