"""Backups: those that there were, asking for one, and their schedules."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from starlette.datastructures import FormData

from export_pipeline.access.roles import Permission
from export_pipeline.backups.retention import Retention, parse_retention
from export_pipeline.backups.schedules import Schedule, ScheduleStore, UnknownScheduleError
from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.gateway import backups, schedules
from export_pipeline.gateway.authorization import Caller, needs
from export_pipeline.gateway.pages.rendering import render
from export_pipeline.gateway.pages.route import Form, PageRoute, own_problem, text_of
from export_pipeline.gateway.pages.session import root_of
from export_pipeline.gateway.paging import cursor_after, read_cursor
from export_pipeline.gateway.problems import ProblemError, not_found
from export_pipeline.gateway.services import Here, Services
from export_pipeline.requests.backups import KIND

ON_A_PAGE = 25
RULES = tuple(Retention.model_fields)

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Owner = Annotated[Caller, needs(Permission.SCHEDULE)]


@router.get("/backups", name="list_backups")
def show_backups(
    request: Request,
    here: Here,
    caller: Annotated[Caller, needs(Permission.BACKUP)],
    app_id: str = "",
    cursor: str | None = None,
) -> Response:
    """Show backups, the newest first, and the schedules."""
    return _page(request, here, caller, app_id.strip(), cursor)


@router.post("/backups", name="schedule_backup")
def start_backup(
    request: Request, here: Here, form: Form, caller: Annotated[Caller, needs(Permission.BACKUP)]
) -> Response:
    """Ask for a backup now."""
    try:
        wanted = backups.WantedBackup(app_id=text_of(form, "app_id") or None, **_form(form))
        backups.schedule_backup(here, caller, wanted)
    except (ProblemError, ExportPipelineError, ValidationError) as error:
        return _page(request, here, caller, "", None, problem=own_problem(error))
    return _back(here, "backup")


@router.get("/schedules/new", name="show_schedule_form")
def show_schedule_form(request: Request, caller: Owner, app_id: str = "") -> Response:
    """Show the form of a new schedule."""
    return _schedule_page(request, None, {"app_id": caller.confine(app_id.strip() or None) or ""})


@router.post("/schedules", name="make_schedule")
def make_schedule(request: Request, here: Here, form: Form, caller: Owner) -> Response:
    """Add a schedule."""
    app_id = text_of(form, "app_id") or caller.token.app_id
    try:
        wanted = schedules.WantedSchedule(**_schedule(form))
        schedules.make_schedule(app_id, wanted, here, Response(), caller)
    except (ProblemError, ExportPipelineError, ValidationError) as error:
        return _schedule_page(request, None, dict(form), problem=own_problem(error))
    return _back(here, "schedule-added")


@router.get("/schedules/{schedule_id}", name="show_schedule")
def show_schedule(schedule_id: str, request: Request, here: Here, caller: Owner) -> Response:
    """Show a schedule, to be changed."""
    schedule = _entered(here, caller, schedule_id)
    return _schedule_page(request, schedule, _typed(schedule))


@router.post("/schedules/{schedule_id}", name="change_schedule")
def change_schedule(schedule_id: str, request: Request, here: Here, form: Form, caller: Owner) -> Response:
    """Change a schedule."""
    schedule = _entered(here, caller, schedule_id)
    try:
        change = schedules.ScheduleChange(**_schedule(form))
        schedules.change_schedule(schedule.app_id, schedule.id, change, here, caller)
    except (ProblemError, ExportPipelineError, ValidationError) as error:
        return _schedule_page(request, schedule, dict(form), problem=own_problem(error))
    return _back(here, "schedule-changed")


@router.post("/schedules/{schedule_id}/enable", name="enable_schedule")
def enable_schedule(schedule_id: str, here: Here, caller: Owner) -> Response:
    """Let a schedule work."""
    return _turn(here, caller, schedule_id, enabled=True)


@router.post("/schedules/{schedule_id}/disable", name="disable_schedule")
def disable_schedule(schedule_id: str, here: Here, caller: Owner) -> Response:
    """Let a schedule rest."""
    return _turn(here, caller, schedule_id, enabled=False)


@router.post("/schedules/{schedule_id}/remove", name="remove_schedule")
def remove_schedule(schedule_id: str, here: Here, caller: Owner) -> Response:
    """Remove a schedule; its backups stay."""
    schedule = _entered(here, caller, schedule_id)
    schedules.remove_schedule(schedule.app_id, schedule.id, here, caller)
    return _back(here, "schedule-removed")


def _turn(here: Services, caller: Caller, schedule_id: str, *, enabled: bool) -> Response:
    schedule = _entered(here, caller, schedule_id)
    change = schedules.ScheduleChange(enabled=enabled)
    schedules.change_schedule(schedule.app_id, schedule.id, change, here, caller)
    return _back(here, "schedule-enabled" if enabled else "schedule-disabled")


def _entered(here: Services, caller: Caller, schedule_id: str) -> Schedule:
    try:
        schedule = ScheduleStore(here.exporter.database).get(schedule_id)
    except UnknownScheduleError:
        raise not_found() from None
    caller.enter(schedule.app_id)
    return schedule


def _page(
    request: Request,
    here: Services,
    caller: Caller,
    chosen: str,
    cursor: str | None,
    problem: ProblemError | None = None,
) -> Response:
    app_id = caller.confine(chosen or None)
    listed = ("backups", app_id)
    before = read_cursor(cursor, listed, here.cursors)
    found = here.requests.page(kind=KIND, app_id=app_id, before=before, limit=ON_A_PAGE + 1)
    jobs = found[:ON_A_PAGE]
    filters = {"app_id": chosen} if chosen else {}
    following = None
    if len(found) > ON_A_PAGE:
        following = urlencode({**filters, "cursor": cursor_after(jobs[-1].id, listed, here.cursors)})
    may_schedule = caller.token.may(Permission.SCHEDULE)
    return render(
        request,
        "backups.html.jinja",
        200 if problem is None else problem.status,
        jobs=jobs,
        older=following,
        is_first=cursor is None,
        filters=urlencode(filters),
        chosen=chosen,
        schedules=ScheduleStore(here.exporter.database).all(app_id) if may_schedule else [],
        kept=_kept,
        problem=problem,
    )


def _schedule_page(
    request: Request, schedule: Schedule | None, typed: dict[str, Any], problem: ProblemError | None = None
) -> Response:
    return render(
        request,
        "schedule.html.jinja",
        200 if problem is None else problem.status,
        schedule=schedule,
        typed={name: value for name, value in typed.items() if isinstance(value, str)},
        rules=RULES,
        problem=problem,
    )


def _form(form: FormData) -> dict[str, Any]:
    """Return what was chosen about the form of backups."""
    format_, compression, recipients = (text_of(form, name) for name in ("format", "compression", "recipients"))
    return {
        "format": format_ or None,
        "compression": compression or None,
        "recipients": recipients.split(),
    }


def _schedule(form: FormData) -> dict[str, Any]:
    """Return what was typed in about a schedule. Raises BadInputError for a number that is none."""
    return {
        "cron": text_of(form, "cron"),
        "time_zone": text_of(form, "time_zone") or "UTC",
        "full_every": _number(form, "full_every", 1),
        "retention": parse_retention({rule: _number(form, rule, 0) for rule in RULES}),
        **_form(form),
    }


def _typed(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as it would be typed in."""
    rules = {rule: str(count) for rule, count in schedule.retention.model_dump().items() if count}
    form = {name: str(schedule.options[name]) for name in ("format", "compression") if name in schedule.options}
    return {
        "app_id": schedule.app_id,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "full_every": str(schedule.full_every),
        "recipients": "\n".join(schedule.options.get("recipients", ())),
        **form,
        **rules,
    }


def _kept(retention: Retention) -> str:
    """Return what a schedule keeps, in words."""
    words = {"last": "the newest {}", "days": "{} days", "daily": "{} daily"}
    told = [words.get(rule, f"{{}} {rule}").format(count) for rule, count in retention.model_dump().items() if count]
    return ", ".join(told) or "all"


def _number(form: FormData, name: str, default: int) -> int:
    text = text_of(form, name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise BadInputError(f"{name.replace('_', ' ')}: expected a whole number")
    return int(text[:9])


def _back(here: Services, said: str) -> Response:
    return RedirectResponse(f"{root_of(here.settings)}/backups?said={said}", 303)
