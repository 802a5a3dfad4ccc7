"""The endpoints that make and revoke links for the person whose data a package holds."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from export_pipeline.access.roles import Permission
from export_pipeline.formats.registry import write_options
from export_pipeline.gateway.authorization import Caller, Guarded, needs
from export_pipeline.gateway.exports import PREFIX, entered_export
from export_pipeline.gateway.package_files import package_file
from export_pipeline.gateway.problems import ProblemError, documented
from export_pipeline.gateway.services import Here
from export_pipeline.requests.rows import now

LONGEST_LINK = timedelta(days=366)

router = APIRouter(route_class=Guarded, tags=["links"], responses=documented(401, 403, 404, 422, 429, 503))


class NewLink(BaseModel):
    """A new link."""

    model_config = ConfigDict(extra="forbid")

    expires_in_seconds: int | None = Field(
        None,
        ge=60,
        le=int(LONGEST_LINK.total_seconds()),
        description="How long it serves; as long as the file is kept if left out, and never longer.",
    )
    one_time: bool = Field(False, description="Whether it is for one download.")


class MadeLink(BaseModel):
    """A link; its URL is told only now."""

    id: str
    url: str
    expires_at: datetime
    one_time: bool


@router.post(f"{PREFIX}/{{export_id}}/links", status_code=201, responses=documented(400, 409, 410, 413))
def make_link(
    export_id: str, new: NewLink, here: Here, caller: Annotated[Caller, needs(Permission.DOWNLOAD)]
) -> MadeLink:
    """Make a link by which the person whose data it is can fetch the file, without a token."""
    row = entered_export(here, caller, export_id)
    package_file(here.storage, row, 0)
    if new.one_time and write_options(row.options).split_bytes:
        raise ProblemError(409, "split", "a split package takes several downloads; make a link that is not one-time")
    lives = LONGEST_LINK if new.expires_in_seconds is None else timedelta(seconds=new.expires_in_seconds)
    ends = now() + lives
    link, text = here.links.create(
        row.id,
        expires_at=ends if row.expires_at is None else min(ends, row.expires_at),
        one_time=new.one_time,
        created_by=caller.actor,
    )
    return MadeLink(id=link.id, url=here.url(f"/d/{text}"), expires_at=link.expires_at, one_time=link.one_time)


@router.delete("/v1/links/{link_id}", status_code=204)
def revoke_link(link_id: str, here: Here, caller: Annotated[Caller, needs(Permission.DOWNLOAD)]) -> None:
    """Revoke a link."""
    link = here.links.get(link_id)
    entered_export(here, caller, link.request_id)
    here.links.revoke(link.id)
