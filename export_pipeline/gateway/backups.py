"""The endpoints that ask for a backup of an app and list those that there were. Their paths and shapes are given."""

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from export_pipeline.access.roles import Permission
from export_pipeline.access.usage import BACKUPS_REQUESTED
from export_pipeline.backups.form import check_form
from export_pipeline.backups.manifest import DEFAULT_PART_BYTES, BackupFormat
from export_pipeline.formats.protocol import MOST_RECIPIENTS, SMALLEST_PART, Compression
from export_pipeline.gateway.authorization import Caller, Guarded, needs
from export_pipeline.gateway.exports import IdempotencyKey
from export_pipeline.gateway.paging import USUAL_PAGE, Cursor, Limit, cursor_after, read_cursor
from export_pipeline.gateway.problems import ProblemError, documented
from export_pipeline.gateway.services import Here
from export_pipeline.gateway.shapes import APP_OR_ALL
from export_pipeline.requests.backups import KIND, BackupRequests, BackupUnderWayError, NewBackup
from export_pipeline.requests.models import Status

JOBS = "/backup/jobs"

router = APIRouter(route_class=Guarded, tags=["backups"], responses=documented(401, 403, 404, 422, 429, 503))


class Form(BaseModel):
    """In which form a backup is; what is left out is as the installation has it."""

    model_config = ConfigDict(extra="forbid")

    format: BackupFormat | None = Field(None, description="`bson` if left out.")
    compression: Compression | None = Field(None, description="Of each file; `none` if left out, and for parquet.")
    recipients: list[str] | None = Field(
        None, max_length=MOST_RECIPIENTS, description="Public keys (age1…) to encrypt to."
    )
    part_bytes: int | None = Field(
        None, ge=SMALLEST_PART, le=DEFAULT_PART_BYTES, description="The most bytes of one file."
    )

    def given(self) -> dict[str, Any]:
        """Return what was given, as options by their names."""
        return {name: getattr(self, name) for name in Form.model_fields if getattr(self, name) is not None}


class WantedBackup(Form):
    """A backup that is wanted."""

    app_id: str | None = Field(
        None,
        pattern=APP_OR_ALL,
        description="The app; the token's own if left out. `*` for all, by a token for all.",
    )


class _Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class JobMade(_Camel):
    """The backup that will be made."""

    job_id: str


class Job(_Camel):
    """A backup, and how far it is."""

    job_id: str
    status: Status
    created_at: datetime
    last_updated_at: datetime


@router.post("/backup/schedule", status_code=202, responses=documented(400, 409, 413))
def schedule_backup(
    here: Here,
    caller: Annotated[Caller, needs(Permission.BACKUP)],
    wanted: WantedBackup | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JobMade:
    """Ask for a full backup of an app, to be made as soon as may be. There is one at a time of each app."""
    wanted = wanted or WantedBackup()
    app_id = wanted.app_id or caller.token.app_id
    caller.enter(app_id)
    form = wanted.given()
    check_form(form)
    new = NewBackup(app_id, form, requested_by=caller.actor, idempotency_key=idempotency_key)
    try:
        made = BackupRequests.beside(here.requests).submit(new)
    except BackupUnderWayError as error:
        raise ProblemError(
            409, error.code, f"a backup of this app is pending or running; {JOBS} tells when it has ended"
        ) from None
    caller.access.target = made.id
    caller.access.count(BACKUPS_REQUESTED)
    return JobMade(job_id=made.id)


@router.get(
    JOBS,
    responses={
        200: {
            "headers": {
                "Link": {"description": '`<…>; rel="next"`: where the next page is.', "schema": {"type": "string"}}
            }
        },
        **documented(400),
    },
)
def list_backups(
    here: Here,
    response: Response,
    caller: Annotated[Caller, needs(Permission.BACKUP)],
    app_id: Annotated[str | None, Query(pattern=APP_OR_ALL)] = None,
    limit: Limit = USUAL_PAGE,
    cursor: Cursor = None,
) -> list[Job]:
    """List the backups of an app, or of all, the newest first. The header `Link` leads to the next page."""
    app_id = caller.confine(app_id)
    listed = ("backups", app_id)
    before = read_cursor(cursor, listed, here.cursors)
    found = here.requests.page(kind=KIND, app_id=app_id, before=before, limit=limit + 1)
    page = found[:limit]
    if len(found) > limit:
        following = {"limit": limit, "cursor": cursor_after(page[-1].id, listed, here.cursors)}
        query = urlencode(following if app_id is None else {"app_id": app_id, **following})
        response.headers["Link"] = f'<{here.url(JOBS)}?{query}>; rel="next"'
    return [
        Job(
            job_id=request.id,
            status=request.status,
            created_at=request.requested_at,
            last_updated_at=request.updated_at,
        )
        for request in page
    ]
