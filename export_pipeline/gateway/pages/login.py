"""Coming in with a token, and going again; and the files that all pages need."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from export_pipeline.gateway.authorization import OPEN, access_of, authenticate
from export_pipeline.gateway.pages.rendering import STATIC, render, static_content
from export_pipeline.gateway.pages.route import Form, PageRoute, text_of
from export_pipeline.gateway.pages.session import Session, end_session, put_session, root_of
from export_pipeline.gateway.problems import ProblemError, not_found
from export_pipeline.gateway.services import Here

router = APIRouter(route_class=PageRoute, include_in_schema=False, dependencies=[OPEN])


@router.get("/login")
def show_login(request: Request) -> Response:
    """Show the form to log in with."""
    return render(request, "login.html.jinja", then="/", why=None)


@router.post("/login")
async def log_in(request: Request, here: Here, form: Form) -> Response:
    """Begin a session with the token that was typed in, and go on to where its owner wanted to be."""
    access = access_of(request)
    access.action = "log_in"
    text, then = text_of(form, "token"), _own_path(text_of(form, "then"))
    try:
        token = await run_in_threadpool(authenticate, here, request, text or None)
    except ProblemError as problem:
        why = "type in a token: ep_…" if problem.code == "no_token" else problem.detail
        return render(request, "login.html.jinja", problem.status, then=then, why=why)
    access.actor = token.actor
    response = RedirectResponse(f"{root_of(here.settings)}{then}", 303)
    put_session(here, request, response, Session(token=text))
    return response


@router.post("/logout")
def log_out(request: Request, here: Here) -> Response:
    """End the session."""
    response = RedirectResponse(f"{root_of(here.settings)}/login?said=logged-out", 303)
    end_session(here, request, response)
    return response


@router.get("/static/{name}")
def show_static(name: Annotated[str, Path(max_length=50)]) -> Response:
    """Hand over a style sheet, a script or an image of the pages. A changed one has another address."""
    if name not in STATIC:
        raise not_found()
    return Response(
        static_content(name), media_type=STATIC[name], headers={"Cache-Control": "public, max-age=31536000, immutable"}
    )


def _own_path(path: str) -> str:
    """Return where to go on; the start for all that could be another site's address."""
    is_ours = path.startswith("/") and not path.startswith("//") and path.isascii() and path.isprintable()
    return path if is_ours and "\\" not in path else "/"
