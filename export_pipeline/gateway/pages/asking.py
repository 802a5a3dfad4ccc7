"""The form that asks for an export: its estimate first, then the request."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from starlette.datastructures import FormData

from export_pipeline.access.roles import Permission
from export_pipeline.catalog.narrowing import parse_narrowing
from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.formats.registry import FORMATS
from export_pipeline.gateway import exports
from export_pipeline.gateway.authorization import Caller, needs
from export_pipeline.gateway.pages.rendering import render
from export_pipeline.gateway.pages.route import Form, PageRoute, own_problem, text_of, texts_of
from export_pipeline.gateway.pages.session import root_of
from export_pipeline.gateway.problems import ProblemError
from export_pipeline.gateway.services import Here, Services
from export_pipeline.gateway.shapes import Asked, NewExport
from export_pipeline.mongo.filters import parse_json
from export_pipeline.requests.models import ALL_APPS

FORMAT_WORDS: Mapping[str, str] = {
    "json": "JSON: one array, a document per line",
    "jsonl": "JSON Lines: one document per line",
    "parquet": "Parquet: typed columns, for analysis",
    "csv": "CSV: a zip with a file per collection",
    "excel": "Excel: a workbook with a sheet per collection",
    "html": "HTML: one page to read, for the person",
    "bson": "BSON: a zip for mongorestore, byte for byte",
}

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Filled:
    """What was typed into the form, as it was typed."""

    app_id: str
    uids: str = ""
    person: str = ""
    format: str = "json"
    since: str = ""
    until: str = ""
    collections: tuple[str, ...] = ()
    recipient: str = ""
    mail: str = ""


@router.get("/new", name="show_form")
def show_form(
    request: Request, here: Here, caller: Annotated[Caller, needs(Permission.REQUEST)], app_id: str = ""
) -> Response:
    """Show the form."""
    return _form_page(request, here, Filled(caller.confine(app_id.strip() or None) or ""))


@router.post("/new", name="request_export")
def request_export(
    request: Request, here: Here, form: Form, caller: Annotated[Caller, needs(Permission.REQUEST)]
) -> Response:
    """Ask for the export, and for a mail once it has ended."""
    filled = read_form(form, caller)
    try:
        key = text_of(form, "idempotency_key") or None
        new = NewExport(**asked(filled), mail=filled.mail or None)
        made = exports.request_export(new, here, Response(), caller, key)
    except (ProblemError, ExportPipelineError, ValidationError) as error:
        return _with_problem(request, here, filled, error)
    return RedirectResponse(f"{root_of(here.settings)}/exports/{made.id}?said=requested", 303)


@router.post("/new/estimate", name="estimate_export")
async def estimate_export(
    request: Request, here: Here, form: Form, caller: Annotated[Caller, needs(Permission.ESTIMATE)]
) -> Response:
    """Show the form again, with what the export would hold."""
    filled = read_form(form, caller)
    try:
        estimate = await exports.estimate_export(Asked(**asked(filled)), here, caller)
    except (ProblemError, ExportPipelineError, ValidationError) as error:
        return _with_problem(request, here, filled, error)
    return _form_page(request, here, filled, estimate=estimate)


def read_form(form: FormData, caller: Caller) -> Filled:
    """Return what was typed in."""
    names = ("uids", "person", "format", "since", "until", "recipient", "mail")
    return Filled(
        app_id=text_of(form, "app_id") or _usual_app(caller),
        collections=tuple(texts_of(form, "collections")),
        **{name: text_of(form, name) for name in names},
    )


def asked(filled: Filled) -> dict[str, Any]:
    r"""Return what the form asks for, by the names of ``Asked``. Raises BadInputError for what cannot be read.

    >>> asked(Filled("mine", uids="a\\nb", since="2026-01-01"))["uids"]
    ['a', 'b']
    """
    narrowing = {
        name: value
        for name, value in (("since", filled.since), ("until", filled.until), ("collections", filled.collections))
        if value
    }
    person = parse_json(filled.person, "person") if filled.person else None
    if person is not None and not isinstance(person, dict):
        raise BadInputError('person: expected a filter such as {"email": "me@example.org"}')
    return {
        "app_id": filled.app_id,
        "uids": [line.strip() for line in filled.uids.splitlines() if line.strip()],
        "person": person,
        "format": filled.format or "json",
        "narrowing": parse_narrowing(narrowing),
        "recipients": [filled.recipient] if filled.recipient else [],
    }


def _usual_app(caller: Caller) -> str:
    return "" if caller.token.app_id == ALL_APPS else caller.token.app_id


def _with_problem(request: Request, here: Services, filled: Filled, error: Exception) -> Response:
    return _form_page(request, here, filled, problem=own_problem(error))


def _form_page(
    request: Request, here: Services, filled: Filled, *, problem: ProblemError | None = None, estimate: Any = None
) -> Response:
    plugins: dict[str, list[str]] = {}
    for entry in here.catalog.entries:
        plugins.setdefault(entry.plugin, []).append(entry.name)
    identity = here.catalog.identity
    return render(
        request,
        "new.html.jinja",
        200 if problem is None else problem.status,
        filled=filled,
        problem=problem,
        estimate=estimate,
        formats={name: FORMAT_WORDS.get(name, name) for name in FORMATS},
        plugins=plugins,
        searchable=() if identity is None else identity.search,
        sends_mail=here.settings.smtp_host is not None,
        # A form that is sent twice asks once; what was refused has a key of its own.
        idempotency_key=secrets.token_urlsafe(16),
    )
