"""The endpoints by which the owner of an app makes, lists and revokes its tokens."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from export_pipeline.access.roles import Permission, Role
from export_pipeline.access.tokens import LONGEST_LABEL, LONGEST_LIFE, Token
from export_pipeline.gateway.authorization import Caller, Guarded, needs
from export_pipeline.gateway.paging import USUAL_PAGE, Cursor, Limit, cursor_after, read_cursor
from export_pipeline.gateway.problems import documented
from export_pipeline.gateway.services import Here
from export_pipeline.gateway.shapes import APP_OR_ALL

PREFIX = "/v1/tokens"

router = APIRouter(
    route_class=Guarded, prefix=PREFIX, tags=["tokens"], responses=documented(401, 403, 404, 422, 429, 503)
)


class NewToken(BaseModel):
    """A new token."""

    model_config = ConfigDict(extra="forbid")

    app_id: str = Field(pattern=APP_OR_ALL, description="The app; `*` for all.")
    role: Role
    label: str = Field("", max_length=LONGEST_LABEL, description="What it is for. Names nobody.")
    expires_in_days: int = Field(90, ge=1, le=LONGEST_LIFE.days)


class TokenShown(BaseModel):
    """A token, without its secret."""

    id: str
    app_id: str
    role: Role
    label: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class MadeToken(TokenShown):
    """A new token, with the text that is told only now."""

    token: str


class TokenPage(BaseModel):
    """A page of tokens, the newest first."""

    tokens: list[TokenShown]
    next: str | None = Field(description="The cursor of the next page; null on the last one.")


@router.post("", status_code=201, responses=documented(400, 413))
def make_token(
    new: NewToken, here: Here, response: Response, caller: Annotated[Caller, needs(Permission.TOKENS)]
) -> MadeToken:
    """Make a token for an app that the caller owns."""
    caller.enter(new.app_id)
    token, text = here.tokens.create(
        new.app_id, new.role, lives=timedelta(days=new.expires_in_days), label=new.label, created_by=caller.actor
    )
    caller.access.target = token.id
    response.headers["Location"] = here.url(f"{PREFIX}/{token.id}")
    return MadeToken(**_shown(token).model_dump(), token=text)


@router.get("")
def list_tokens(
    here: Here,
    caller: Annotated[Caller, needs(Permission.TOKENS)],
    app_id: str | None = None,
    limit: Limit = USUAL_PAGE,
    cursor: Cursor = None,
) -> TokenPage:
    """List the tokens of an app, or of all, the newest first; those that have ended too."""
    app_id = caller.confine(app_id)
    listed = ("tokens", app_id)
    found = here.tokens.page(app_id=app_id, before=read_cursor(cursor, listed, here.cursors), limit=limit + 1)
    page = found[:limit]
    return TokenPage(
        tokens=[_shown(token) for token in page],
        next=cursor_after(page[-1].id, listed, here.cursors) if len(found) > limit else None,
    )


@router.delete("/{token_id}", status_code=204)
def revoke_token(token_id: str, here: Here, caller: Annotated[Caller, needs(Permission.TOKENS)]) -> None:
    """Revoke a token, from this moment on."""
    token = here.tokens.get(token_id)
    caller.enter(token.app_id)
    here.tokens.revoke(token.id)


def _shown(token: Token) -> TokenShown:
    return TokenShown(**{name: getattr(token, name) for name in TokenShown.model_fields})
