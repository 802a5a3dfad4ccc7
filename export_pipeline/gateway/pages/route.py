"""A route for people: let in by their session, its forms only from its own pages, its errors as pages.

A program with an Authorization header may call it too; its forms need no proof of origin, since no browser adds that
header by itself.
"""

import hmac
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.gateway.authorization import Guarded, Needs, Open, presented
from export_pipeline.gateway.pages.rendering import render
from export_pipeline.gateway.pages.session import read_session
from export_pipeline.gateway.problems import ProblemError, as_problem, invalid_input, too_large
from export_pipeline.gateway.services import services_of

MOST_FIELDS = 2000
"""In one form: a catalogue's collections, each with a box to tick, and the rest."""


class PageRoute(Guarded):
    """A route of the pages."""

    def presented(self, request: Request) -> str | None:
        """Return the text of the token that a request comes with: its own, or its session's."""
        session = read_session(services_of(request), request)
        return presented(request) or (session.token if session else None)

    async def admit(self, request: Request, requirement: Needs | Open) -> None:
        """Let in who may come, with a form that is from here."""
        await super().admit(request, requirement)
        if request.method not in ("GET", "HEAD"):
            request.state.form = await _trusted_form(request)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Handle, and show what goes wrong as a page."""
        handle = super().get_route_handler()

        async def handle_for_people(request: Request) -> Response:
            try:
                return await handle(request)
            except (ProblemError, ExportPipelineError, RequestValidationError, HTTPException) as error:
                return _problem_page(request, problem_of(error))

        return handle_for_people


def form_of(request: Request) -> FormData:
    """Return the form that was sent."""
    form: FormData = request.state.form
    return form


Form = Annotated[FormData, Depends(form_of)]


def text_of(form: FormData, name: str) -> str:
    """Return what was typed into a field, without the spaces around it; '' for none."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def texts_of(form: FormData, name: str) -> list[str]:
    """Return all values of a field that may come several times."""
    return [value for value in form.getlist(name) if isinstance(value, str)]


def problem_of(error: Exception) -> ProblemError:
    """Return what a person is told of an error."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, ExportPipelineError):
        return as_problem(error)
    if isinstance(error, RequestValidationError | ValidationError):
        return invalid_input(error.errors())
    if isinstance(error, HTTPException) and error.status_code == 413:
        return too_large()
    return ProblemError(400, BadInputError.code, "the form cannot be read; go back and send it again")


def own_problem(error: Exception) -> ProblemError:
    """Return what is wrong with what was typed in; raise what is about something else."""
    problem = problem_of(error)
    if problem.status in (401, 403, 404, 429):
        raise problem
    return problem


async def _trusted_form(request: Request) -> FormData:
    """Return the form. Raises a Problem unless a page of this session has sent it."""
    if hasattr(request.state, "caller") and presented(request) is not None:
        return await _form(request)
    here = services_of(request)
    origin = urlsplit(request.headers.get("origin", "")).netloc
    ours = {request.headers.get("host", ""), urlsplit(here.settings.public_url or "").netloc} - {""}
    session = read_session(here, request)
    if origin not in ours or session is None:
        raise _not_from_here()
    form = await _form(request)
    if not hmac.compare_digest(text_of(form, "csrf").encode(), session.csrf.encode()):
        raise _not_from_here()
    return form


async def _form(request: Request) -> FormData:
    try:
        return await request.form(max_files=0, max_fields=MOST_FIELDS)
    except ClientDisconnect:  # nobody reads the answer
        raise ProblemError(400, BadInputError.code, "the form broke off") from None


def _not_from_here() -> ProblemError:
    return ProblemError(
        403,
        "foreign_form",
        "this form was not sent by a page of your session, or the session is over; open the page again, and allow it "
        "its cookie",
    )


def _problem_page(request: Request, problem: ProblemError) -> Response:
    if problem.status == 401:
        path = request.url.path if request.method == "GET" else "/"
        why = None if problem.code == "no_token" else problem.detail
        response: Response = render(request, "login.html.jinja", 401, then=path, why=why)
    else:
        response = render(request, "problem.html.jinja", problem.status, problem=problem)
    response.headers.update(problem.headers)
    return response
