"""The endpoints by which the owner of an app says when it is backed up. Where backups go is for the operator to say."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import Field

from export_pipeline.access.roles import Permission
from export_pipeline.backups.retention import Retention
from export_pipeline.backups.schedules import (
    MOST_INCREMENTAL,
    NewSchedule,
    Schedule,
    ScheduleStore,
    UnknownScheduleError,
)
from export_pipeline.gateway.authorization import Caller, Guarded, needs
from export_pipeline.gateway.backups import Form
from export_pipeline.gateway.problems import ProblemError, documented, not_found
from export_pipeline.gateway.services import Here, Services
from export_pipeline.gateway.shapes import APP_OR_ALL

PREFIX = "/v1/apps/{app_id}/schedules"
MOST_SCHEDULES = 100
"""Of one app."""

router = APIRouter(route_class=Guarded, tags=["schedules"], responses=documented(401, 403, 404, 422, 429, 503))

AppPath = Annotated[str, Path(pattern=APP_OR_ALL, description="The app; `*` for all.")]
Owner = Annotated[Caller, needs(Permission.SCHEDULE)]

_CRON = "Minute, hour, day of the month, month, day of the week."
_ZONE = "Whose clock counts: a name of the IANA database."
_FULL_EVERY = "1: each backup is a full one; n: every n-th, and the others hold what changed."


class WantedSchedule(Form):
    """A schedule that is wanted."""

    cron: str = Field(max_length=100, description=_CRON, examples=["30 3 * * *"])
    time_zone: str = Field("UTC", max_length=64, description=_ZONE)
    retention: Retention = Field(Retention(), description="What is kept; everything if left out.")
    full_every: int = Field(1, ge=1, le=MOST_INCREMENTAL, description=_FULL_EVERY)
    enabled: bool = Field(True, description="A disabled schedule rests.")


class ScheduleChange(Form):
    """What is to be different; all else stays."""

    cron: str | None = Field(None, max_length=100, description=_CRON)
    time_zone: str | None = Field(None, max_length=64, description=_ZONE)
    retention: Retention | None = Field(None, description="In place of all the rules there were.")
    full_every: int | None = Field(None, ge=1, le=MOST_INCREMENTAL, description=_FULL_EVERY)
    enabled: bool | None = None


class ScheduleShown(Form):
    """A schedule."""

    id: str
    app_id: str
    cron: str
    time_zone: str
    retention: Retention
    full_every: int
    enabled: bool
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    next_at: datetime | None = Field(description="When its next backup is due; null while it is disabled.")


@router.get(PREFIX)
def list_schedules(app_id: AppPath, here: Here, caller: Owner) -> list[ScheduleShown]:
    """List an app's schedules, the oldest first."""
    caller.enter(app_id)
    return [_shown(schedule) for schedule in _store(here).all(app_id)]


@router.post(PREFIX, status_code=201, responses=documented(400, 409, 413))
def make_schedule(
    app_id: AppPath, wanted: WantedSchedule, here: Here, response: Response, caller: Owner
) -> ScheduleShown:
    """Make a schedule; the next time that it names is its first."""
    caller.enter(app_id)
    schedules = _store(here)
    if len(schedules.all(app_id)) >= MOST_SCHEDULES:
        raise ProblemError(409, "too_many_schedules", f"an app has at most {MOST_SCHEDULES}; remove one")
    new = NewSchedule(
        app_id,
        wanted.cron,
        wanted.time_zone,
        wanted.given(),
        retention=wanted.retention,
        full_every=wanted.full_every,
    )
    made = schedules.create(new, caller.actor)
    if not wanted.enabled:
        made = schedules.disable(made.id, caller.actor)
    caller.access.target = made.id
    response.headers["Location"] = here.url(f"{PREFIX.format(app_id=app_id)}/{made.id}")
    return _shown(made)


@router.patch(f"{PREFIX}/{{schedule_id}}", responses=documented(400, 413))
def change_schedule(
    app_id: AppPath, schedule_id: str, change: ScheduleChange, here: Here, caller: Owner
) -> ScheduleShown:
    """Change a schedule. With other times, what was due by the old ones and has no backup yet gets none."""
    schedule = _entered(here, caller, app_id, schedule_id)
    schedules = _store(here)
    named = ("cron", "time_zone", "retention", "full_every")
    changes: dict[str, Any] = {name: value for name in named if (value := getattr(change, name)) is not None}
    if change.given():
        changes["options"] = {**schedule.options, **change.given()}
    if changes:
        schedule = schedules.edit(schedule.id, changes, caller.actor)
    if change.enabled is not None and change.enabled != schedule.enabled:
        turn = schedules.enable if change.enabled else schedules.disable
        schedule = turn(schedule.id, caller.actor)
    return _shown(schedule)


@router.delete(f"{PREFIX}/{{schedule_id}}", status_code=204)
def remove_schedule(app_id: AppPath, schedule_id: str, here: Here, caller: Owner) -> None:
    """Remove a schedule; its backups stay."""
    _store(here).remove(_entered(here, caller, app_id, schedule_id).id)


def _entered(here: Services, caller: Caller, app_id: str, schedule_id: str) -> Schedule:
    caller.enter(app_id)
    caller.access.target = schedule_id if len(schedule_id) <= 36 and schedule_id.isascii() else None
    try:
        schedule = _store(here).get(schedule_id)
    except UnknownScheduleError:
        raise not_found() from None
    if schedule.app_id != app_id:
        raise not_found()
    return schedule


def _store(here: Services) -> ScheduleStore:
    return ScheduleStore(here.exporter.database)


def _shown(schedule: Schedule) -> ScheduleShown:
    same = {name: getattr(schedule, name) for name in ScheduleShown.model_fields if hasattr(schedule, name)}
    return ScheduleShown(**same, **schedule.options, next_at=schedule.next_tick())
