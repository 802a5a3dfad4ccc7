"""The list of exports and the page of each, with what can be done about it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from export_pipeline.access.roles import Permission
from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.gateway import downloads, exports, links
from export_pipeline.gateway.authorization import Caller, needs
from export_pipeline.gateway.package_files import manifest_file
from export_pipeline.gateway.pages.rendering import render
from export_pipeline.gateway.pages.route import Form, PageRoute, text_of
from export_pipeline.gateway.pages.session import root_of
from export_pipeline.gateway.services import Here, Services
from export_pipeline.gateway.shapes import Export
from export_pipeline.packages.manifest import Manifest
from export_pipeline.requests.models import Status

ON_A_PAGE = 25
LARGEST_MANIFEST = 16 << 20
"""In bytes; a larger one, of very many people, is for download alone."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/", name="list_exports")
def show_list(
    request: Request,
    here: Here,
    caller: Annotated[Caller, needs(Permission.STATUS)],
    app_id: str = "",
    status: str = "",
    since: str = "",
    cursor: str | None = None,
) -> Response:
    """Show exports, the newest first."""
    chosen = {"app_id": app_id.strip(), "status": status, "since": since.strip()}
    page = exports.list_exports(
        here,
        caller,
        app_id=chosen["app_id"] or None,
        status=_status(status),
        since=_moment(chosen["since"]),
        limit=ON_A_PAGE,
        cursor=cursor,
    )
    filters = {name: value for name, value in chosen.items() if value}
    older = None if page.next is None else urlencode({**filters, "cursor": page.next})
    return render(
        request,
        "exports.html.jinja",
        exports=page.exports,
        chosen=chosen,
        filters=urlencode(filters),
        older=older,
        is_first=cursor is None,
        statuses=get_args(Status),
    )


@router.get("/exports/{export_id}", name="show_export")
def show_one(
    export_id: str, request: Request, here: Here, caller: Annotated[Caller, needs(Permission.STATUS)]
) -> Response:
    """Show an export: how far it is, what it holds, what became of it."""
    return _page_of(request, here, caller, exports.show_export(export_id, here, Response(), caller))


@router.get("/exports/{export_id}/download", name="download_export")
def download(
    export_id: str,
    request: Request,
    here: Here,
    caller: Annotated[Caller, needs(Permission.DOWNLOAD)],
    part: downloads.Part = 0,
) -> Response:
    """Hand over the file."""
    return downloads.download_export(export_id, here, request, caller, part)


@router.get("/exports/{export_id}/manifest", name="show_manifest")
def show_manifest(
    export_id: str, request: Request, here: Here, caller: Annotated[Caller, needs(Permission.DOWNLOAD)]
) -> Response:
    """Hand over the manifest."""
    return downloads.show_manifest(export_id, here, request, caller)


@router.post("/exports/{export_id}/links", name="make_link")
def make_link(
    export_id: str, request: Request, here: Here, form: Form, caller: Annotated[Caller, needs(Permission.DOWNLOAD)]
) -> Response:
    """Make a link for the person whose data it is, and show it this once."""
    days = text_of(form, "days")
    if days and not (days.isascii() and days.isdigit() and 0 < int(days[:6]) <= links.LONGEST_LINK.days):
        raise BadInputError(f"days: expected a whole number from 1 to {links.LONGEST_LINK.days}, or nothing")
    new = links.NewLink(
        expires_in_seconds=int(days) * 86_400 if days else None, one_time=text_of(form, "one_time") == "yes"
    )
    made = links.make_link(export_id, new, here, caller)
    export = exports.show_export(export_id, here, Response(), caller)
    return _page_of(request, here, caller, export, status=201, link=made)


@router.post("/links/{link_id}/revoke", name="revoke_link")
def revoke_link(link_id: str, here: Here, caller: Annotated[Caller, needs(Permission.DOWNLOAD)]) -> Response:
    """Revoke a link."""
    export_id = here.links.get(link_id).request_id
    links.revoke_link(link_id, here, caller)
    return _back(here, f"/exports/{export_id}", "revoked")


@router.post("/exports/{export_id}/cancel", name="cancel_export")
def cancel(export_id: str, here: Here, form: Form, caller: Annotated[Caller, needs(Permission.CANCEL)]) -> Response:
    """Call off an export."""
    export = exports.cancel_export(export_id, here, caller)
    return _back(here, _origin(form, export), "cancelled")


@router.post("/exports/{export_id}/retry", name="retry_export")
def retry(export_id: str, here: Here, form: Form, caller: Annotated[Caller, needs(Permission.RETRY)]) -> Response:
    """Try a failed export again."""
    export = exports.retry_export(export_id, here, caller)
    return _back(here, _origin(form, export), "retried")


@router.post("/exports/{export_id}/delete", name="delete_export")
def delete(export_id: str, here: Here, caller: Annotated[Caller, needs(Permission.DELETE)]) -> Response:
    """Remove an export's file and its links."""
    exports.delete_export(export_id, here, caller)
    return _back(here, f"/exports/{export_id}", "deleted")


def _page_of(
    request: Request, here: Services, caller: Caller, export: Export, *, status: int = 200, link: Any = None
) -> Response:
    may_open = export.links.manifest is not None and caller.token.may(Permission.DOWNLOAD)
    return render(
        request,
        "export.html.jinja",
        status,
        export=export,
        events=here.requests.events(export.id),
        manifest=_manifest(here, export.id) if may_open else None,
        link=link,
    )


def _manifest(here: Services, export_id: str) -> Manifest | None:
    """Return a package's manifest; None for one that cannot be shown, which the download then tells more of."""
    try:
        with here.storage.open(manifest_file(here.storage, here.requests.get(export_id)).key) as file:
            content = file.read(LARGEST_MANIFEST + 1)
            return Manifest.model_validate_json(content) if len(content) <= LARGEST_MANIFEST else None
    except (ExportPipelineError, ValueError):
        return None


def _back(here: Services, path: str, said: str) -> Response:
    return RedirectResponse(f"{root_of(here.settings)}{path}?said={said}", 303)


def _origin(form: Mapping[str, Any], export: Export) -> str:
    return "/" if form.get("from") == "list" else f"/exports/{export.id}"


def _status(text: str) -> Status | None:
    if text and text not in get_args(Status):
        raise BadInputError(f"state: expected one of {', '.join(get_args(Status))}")
    return text or None  # type: ignore[return-value]  # one of them, as was just seen


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise BadInputError("since: expected a day such as 2026-01-31") from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)
