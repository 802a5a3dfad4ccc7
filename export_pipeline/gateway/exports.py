"""The endpoints on exports: asking for one, following it, calling it off."""

import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Query, Response

from export_pipeline.access.roles import Permission
from export_pipeline.access.usage import EXPORTS_REQUESTED
from export_pipeline.errors import StaleRequestError, UnknownRequestError
from export_pipeline.gateway.authorization import Caller, Guarded, needs
from export_pipeline.gateway.package_files import is_ready, remove_package
from export_pipeline.gateway.paging import USUAL_PAGE, Cursor, Limit, cursor_after, read_cursor
from export_pipeline.gateway.polling import retry_after
from export_pipeline.gateway.problems import documented
from export_pipeline.gateway.services import Here, Services
from export_pipeline.gateway.shapes import Asked, Export, NewExport, Page, export_shown
from export_pipeline.notifications.sending import Notifier
from export_pipeline.requests.models import LONGEST_KEY, USER_EXPORT, Request, Status
from export_pipeline.slices.estimate import Estimate

PREFIX = "/v1/exports"

router = APIRouter(
    route_class=Guarded, prefix=PREFIX, tags=["exports"], responses=documented(401, 403, 404, 422, 429, 503)
)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=rf"^[!-~]{{1,{LONGEST_KEY}}}$",
        description="Your own name for the request: sent again with the same content, it makes no second one.",
    ),
]


@router.post("", status_code=202, responses=documented(400, 409, 413))
def request_export(
    new: NewExport,
    here: Here,
    response: Response,
    caller: Annotated[Caller, needs(Permission.REQUEST)],
    idempotency_key: IdempotencyKey = None,
) -> Export:
    """Ask for an export. One for the same thing that is under way is joined."""
    caller.enter(new.app_id)
    notifier = Notifier.of(here.exporter)
    notifier.check_all(new.wishes)
    request = here.exporter.submit(
        new.request(requested_by=caller.actor, idempotency_key=idempotency_key),
        passphrase=None if new.passphrase is None else new.passphrase.get_secret_value(),
    )
    notifier.tell_all(request, new.wishes)
    caller.access.target = request.id
    caller.access.count(EXPORTS_REQUESTED)
    response.headers["Location"] = here.url(f"{PREFIX}/{request.id}")
    return _shown(here, request)


@router.get("")
def list_exports(
    here: Here,
    caller: Annotated[Caller, needs(Permission.STATUS)],
    app_id: str | None = None,
    status: Status | None = None,
    since: Annotated[datetime | None, Query(description="Only those asked for since then.")] = None,
    limit: Limit = USUAL_PAGE,
    cursor: Cursor = None,
) -> Page:
    """List exports, the newest first."""
    app_id = caller.confine(app_id)
    since = None if since is None else _utc(since)
    listed = ("exports", app_id, status, None if since is None else since.isoformat())
    before = read_cursor(cursor, listed, here.cursors)
    found = here.requests.page(
        kind=USER_EXPORT, app_id=app_id, status=status, since=since, before=before, limit=limit + 1
    )
    page = found[:limit]
    return Page(
        exports=[_shown(here, request) for request in page],
        next=cursor_after(page[-1].id, listed, here.cursors) if len(found) > limit else None,
    )


@router.post("/estimate", responses=documented(400, 413))
async def estimate_export(asked: Asked, here: Here, caller: Annotated[Caller, needs(Permission.ESTIMATE)]) -> Estimate:
    """Tell what an export would hold, and which queries no index serves, without making one."""
    await anyio.to_thread.run_sync(caller.enter, asked.app_id)
    new = asked.new_request(requested_by=caller.actor)
    # With threads of its own: a MongoDB that does not answer must not hold up those who only ask for a status.
    return await anyio.to_thread.run_sync(here.exporter.estimate, new, limiter=here.estimating)


@router.get("/{export_id}", responses={200: {"headers": {"Retry-After": {"schema": {"type": "integer"}}}}})
def show_export(
    export_id: str, here: Here, response: Response, caller: Annotated[Caller, needs(Permission.STATUS)]
) -> Export:
    """Show an export: its state, its progress, and while it is under way, when to ask again."""
    request = entered_export(here, caller, export_id)
    if not request.is_live:
        here.polls.forget(caller.actor, request.id)
        return _shown(here, request)
    polls = here.polls.count(caller.actor, request.id)
    wait = retry_after(here.settings.poll_after.total_seconds(), polls)
    response.headers["Retry-After"] = str(math.ceil(wait))
    return _shown(here, request, retry_after=round(wait, 3))


@router.post("/{export_id}/cancel", responses=documented(409))
def cancel_export(export_id: str, here: Here, caller: Annotated[Caller, needs(Permission.CANCEL)]) -> Export:
    """Call off an export that is under way; what was written for it is removed."""
    request = entered_export(here, caller, export_id)
    return _shown(here, here.exporter.cancel(request.id, caller.actor))


@router.post("/{export_id}/retry", responses=documented(409))
def retry_export(export_id: str, here: Here, caller: Annotated[Caller, needs(Permission.RETRY)]) -> Export:
    """Try a failed export again."""
    request = entered_export(here, caller, export_id)
    here.requests.retry(request.id, caller.actor)
    return _shown(here, here.requests.get(request.id))


@router.delete("/{export_id}", status_code=204, responses=documented(409))
def delete_export(export_id: str, here: Here, caller: Annotated[Caller, needs(Permission.DELETE)]) -> None:
    """Call off an export if it is under way, and remove its file and its links. Its row stays in the history."""
    request = entered_export(here, caller, export_id)
    if request.is_live:
        with suppress(StaleRequestError):  # it has just finished
            here.exporter.cancel(request.id, caller.actor)
    here.links.revoke_all(request.id)
    remove_package(here.requests, here.storage, here.requests.get(request.id), caller.actor)


def entered_export(here: Services, caller: Caller, export_id: str) -> Request:
    """Return an export of an app in which the caller may do this. What is not one, or another's, is a 404 alike."""
    request = here.requests.get(export_id)
    if request.kind != USER_EXPORT:
        raise UnknownRequestError("this is no export")
    caller.enter(request.app_id)
    return request


def _shown(here: Services, request: Request, retry_after: float | None = None) -> Export:
    url = here.url(f"{PREFIX}/{request.id}")
    return export_shown(request, url, datetime.now(UTC), ready=is_ready(here.storage, request), retry_after=retry_after)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
