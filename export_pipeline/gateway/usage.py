"""The endpoint that tells how much was asked for and handed over, by day and app."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from export_pipeline.access.roles import Permission
from export_pipeline.access.usage import Counted, usage
from export_pipeline.gateway.authorization import Caller, Guarded, needs
from export_pipeline.gateway.paging import Cursor, cursor_after, read_cursor
from export_pipeline.gateway.problems import ProblemError, documented
from export_pipeline.gateway.services import Here
from export_pipeline.gateway.shapes import APP_OR_ALL

USUAL_SPAN = timedelta(days=30)
LONGEST_SPAN = timedelta(days=366)
MOST_COUNTERS = 1000

router = APIRouter(route_class=Guarded, tags=["usage"])


class Counter(BaseModel):
    """How often something happened in an app on a day, in UTC."""

    day: date
    app_id: str = Field(description="`*`: what concerned all apps.")
    what: str = Field(examples=["calls", "exports_requested", "downloaded_bytes"])
    count: int


class UsagePage(BaseModel):
    """Counters, by day, app and name."""

    usage: list[Counter]
    next: str | None = Field(description="The cursor of the next page; null on the last one.")


@router.get("/v1/usage", responses=documented(400, 401, 403, 404, 422, 429, 503))
def show_usage(
    here: Here,
    caller: Annotated[Caller, needs(Permission.STATUS)],
    app_id: Annotated[str | None, Query(pattern=APP_OR_ALL)] = None,
    since: Annotated[date | None, Query(description="The first day; 30 days before `until` if left out.")] = None,
    until: Annotated[date | None, Query(description="The last day; today if left out.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_COUNTERS, description="The most counters on one page.")] = MOST_COUNTERS,
    cursor: Cursor = None,
) -> UsagePage:
    """Tell how much was asked for and handed over in an app, or in all. It names no person and no token."""
    app_id = caller.confine(app_id)
    until = until or datetime.now(UTC).date()
    since = since or max(date.min + USUAL_SPAN, until) - USUAL_SPAN
    if not timedelta(0) <= until - since <= LONGEST_SPAN:
        raise ProblemError(400, "bad_input", f"since, until: expected at most {LONGEST_SPAN.days} days, in this order")
    listed = ("usage", app_id, since.isoformat(), until.isoformat())
    after = read_cursor(cursor, listed, here.cursors)
    found = usage(
        here.exporter.database,
        since=since,
        until=until,
        app_id=app_id,
        after=None if after is None else Counted(date.fromisoformat(after[0]), after[1], after[2]),
        limit=limit + 1,
    )
    page = [Counter(**row) for row in found[:limit]]
    if len(found) <= limit:
        return UsagePage(usage=page, next=None)
    last = (page[-1].day.isoformat(), page[-1].app_id, page[-1].what)
    return UsagePage(usage=page, next=cursor_after(last, listed, here.cursors))
