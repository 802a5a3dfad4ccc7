"""Templates become answers: escaped, with a policy that lets no script but ours run, in the session they belong to."""

import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from export_pipeline.access.roles import Permission
from export_pipeline.gateway.authorization import Caller
from export_pipeline.gateway.pages import shown
from export_pipeline.gateway.pages.session import Session, put_session, read_session, root_of
from export_pipeline.gateway.services import services_of
from export_pipeline.requests.models import ALL_APPS

STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # Without a referrer a browser would not say where a form comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_SAID = {
    "requested": "The export was asked for.",
    "cancelled": "It is cancelled; what was written for it is removed.",
    "retried": "It is tried again.",
    "deleted": "Its file and its links are removed. The history keeps that it was there.",
    "backup": "The backup was asked for.",
    "schedule-added": "The schedule was added.",
    "schedule-changed": "The schedule was changed.",
    "schedule-enabled": "The schedule works from now on.",
    "schedule-disabled": "The schedule rests: nothing is made, nothing is removed.",
    "schedule-removed": "The schedule was removed. Its backups stay.",
    "revoked": "The link is revoked; nobody can use it any more.",
    "logged-out": "You are logged out.",
}
"""What the page after a form says was done, by the word in its address."""


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page. One who has no session yet is given an empty one, so that the page's forms can be trusted."""
    here = services_of(request)
    caller: Caller | None = getattr(request.state, "caller", None)
    session = read_session(here, request)
    is_new = session is None and caller is None
    session = session or Session()
    text = (
        _environment()
        .get_template(template)
        .render(
            root=root_of(here.settings),
            csrf=session.csrf,
            is_logged_in=session.token is not None,
            caller=caller,
            may=lambda permission: caller is not None and caller.token.may(Permission(permission)),
            all_apps=caller is not None and caller.token.app_id == ALL_APPS,
            said=_SAID.get(request.query_params.get("said", "")),
            now=datetime.now(UTC),
            poll_seconds=here.settings.poll_after.total_seconds(),
            **context,
        )
    )
    response = HTMLResponse(text, status, HEADERS)
    if is_new:
        put_session(here, request, response, session)
    return response


def static_content(name: str) -> bytes:
    """Return the content of a static file."""
    return (files(__package__) / "static" / name).read_bytes()


@cache
def _version(name: str) -> str:
    return hashlib.sha256(static_content(name)).hexdigest()[:16]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(str(__package__)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": _moment,
        "size": shown.size,
        "number": shown.number,
        "seconds": shown.about,
        "happened": shown.happened,
    }
    environment.globals |= {
        "static": lambda name: f"/static/{name}?v={_version(name)}",
        "state": shown.STATES.__getitem__,
        "share": shown.share,
        "expected": shown.expected,
        "is_overdue": shown.is_overdue,
        "advice": shown.advice,
    }
    return environment


def _moment(moment: datetime | str | None) -> Markup:
    """Return a moment as an element; a script writes it in the reader's own time zone."""
    if moment is None:
        return Markup("none")
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    iso = at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Markup('<time datetime="{iso}" title="{iso}">{shown:%Y-%m-%d %H:%M} UTC</time>').format(
        iso=iso, shown=at.astimezone(UTC)
    )
