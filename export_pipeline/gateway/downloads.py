"""The endpoints that hand over a package: to a caller with a token, and to the person who has a link to it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from export_pipeline.access.links import UnknownLinkError
from export_pipeline.access.roles import Permission
from export_pipeline.formats.registry import FORMATS
from export_pipeline.gateway.authorization import OPEN, Caller, Guarded, access_of, address_of, needs
from export_pipeline.gateway.exports import PREFIX, entered_export
from export_pipeline.gateway.file_response import hand_over
from export_pipeline.gateway.package_files import manifest_file, package_file
from export_pipeline.gateway.problems import ProblemError, documented
from export_pipeline.gateway.services import Here

MOST_PARTS = 100_000

_BINARY: dict[str, Any] = {}  # in OpenAPI 3.1, a body without a schema is any bytes
_MEDIA_TYPES = {
    *(format_.media_type for format_ in FORMATS.values()),
    *("application/gzip", "application/zstd", "application/octet-stream"),
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": dict.fromkeys(sorted(_MEDIA_TYPES), _BINARY)},
    206: {"description": "A part of it", "content": dict.fromkeys(sorted(_MEDIA_TYPES), _BINARY)},
    304: {"description": "It has not changed"},
    307: {"description": "It is fetched from the store, by a link that serves for a minute"},
    **documented(404, 409, 410, 416, 422, 429, 503),
}
_HEAD: dict[int | str, dict[str, Any]] = {
    200: {**_FILE[200], "description": "As the file itself would come, without it"},
    304: _FILE[304],
    **documented(404, 409, 410, 422, 429, 503),
}

Part = Annotated[int, Query(ge=0, lt=MOST_PARTS, description="Of a split package: which of its files, from 0 on.")]

router = APIRouter(route_class=Guarded, tags=["downloads"])


@router.get(f"{PREFIX}/{{export_id}}/download", response_class=Response, responses=_FILE | documented(401, 403))
def download_export(
    export_id: str,
    here: Here,
    request: Request,
    caller: Annotated[Caller, needs(Permission.DOWNLOAD)],
    part: Part = 0,
) -> Response:
    """Fetch the file. ``Range``, ``If-Range`` and ``If-None-Match`` are heeded; a split package has several."""
    row = entered_export(here, caller, export_id)
    return hand_over(here, request, package_file(here.storage, row, part))


router.head(
    f"{PREFIX}/{{export_id}}/download",
    response_class=Response,
    operation_id="look_at_export",
    name="look_at_export",
    responses=_HEAD | documented(401, 403),
)(download_export)


@router.get(
    f"{PREFIX}/{{export_id}}/manifest",
    response_class=Response,
    responses={
        200: {"description": "The manifest", "content": {"application/json": {"schema": {"type": "object"}}}},
        **documented(401, 403, 404, 409, 410, 422, 429, 503),
    },
)
def show_manifest(
    export_id: str, here: Here, request: Request, caller: Annotated[Caller, needs(Permission.DOWNLOAD)]
) -> Response:
    """Fetch the manifest: what the package holds, and the figures that prove it whole."""
    row = entered_export(here, caller, export_id)
    return hand_over(here, request, manifest_file(here.storage, row))


@router.get("/d/{link}", response_class=Response, responses=_FILE, dependencies=[OPEN])
def open_link(link: str, here: Here, request: Request, part: Part = 0) -> Response:
    """Fetch the file that a link is for; the link is all that is needed."""
    access = access_of(request)
    access.action = "open_link"
    here.limits.hit("anonymous", address_of(request))
    try:
        found = here.links.open(link)
    except UnknownLinkError as error:
        raise ProblemError(404, error.code, str(error)) from None
    access.actor = found.actor
    row = here.requests.get(found.request_id)
    access.app_id, access.target = row.app_id, row.id
    file = package_file(here.storage, row, part)
    return hand_over(here, request, file, admit=lambda: here.links.use(found))


router.head(
    "/d/{link}",
    response_class=Response,
    operation_id="look_at_link",
    name="look_at_link",
    responses=_HEAD,
    dependencies=[OPEN],
)(open_link)
