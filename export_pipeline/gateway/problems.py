"""Every error as problem+json (RFC 9457): a status, a stable code, and what to do. Never data, never where we run."""

import logging
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from export_pipeline.access.links import LinkOverError, UnknownLinkError
from export_pipeline.access.tokens import UnknownTokenError
from export_pipeline.errors import (
    BadInputError,
    CatalogError,
    ExportPipelineError,
    StaleRequestError,
    UnknownRequestError,
)
from export_pipeline.requests.retries import PASSING
from export_pipeline.requests.store import IdempotencyConflictError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
NOT_FOUND = "there is nothing here, or nothing that is for you; check the id and the app"
ASK_AGAIN_AFTER = 10
"""Seconds, where a part of the installation does not answer."""

_STATUS: Sequence[tuple[type[ExportPipelineError], int]] = (
    (UnknownRequestError, 404),
    (UnknownTokenError, 404),
    (UnknownLinkError, 404),
    (LinkOverError, 410),
    (IdempotencyConflictError, 409),
    (StaleRequestError, 409),
    (CatalogError, 500),
    (BadInputError, 422),
)


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemBody(BaseModel):
    """A problem, as RFC 9457 has it. Programs go by ``code``."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldProblem] | None = None


class ProblemError(Exception):
    """An error that is told to the caller as it stands."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[FieldProblem] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors

    def response(self) -> JSONResponse:
        """Return the answer."""
        body = ProblemBody(
            type=f"urn:export-pipeline:problem:{self.code}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            code=self.code,
            detail=self.detail,
            errors=list(self.errors) or None,
        )
        return JSONResponse(body.model_dump(exclude_none=True), self.status, self.headers, media_type=MEDIA_TYPE)


def not_found() -> ProblemError:
    """Return the one answer to what does not exist and to what is somebody else's."""
    return ProblemError(404, "not_found", NOT_FOUND)


def too_large() -> ProblemError:
    """Return the answer to a body that is larger than is taken here."""
    return ProblemError(413, "too_large", "the body is larger than this installation takes; ask for less at a time")


def as_problem(error: ExportPipelineError) -> ProblemError:
    """Return what a caller is told of an error of the library."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status == 404:
        return not_found()
    if status is not None and status < 500:
        return ProblemError(status, error.code, str(error))
    # The message is for the operator: it may say where things are.
    log.error("%s: %s", error.code, error)
    if error.code in PASSING:
        return ProblemError(
            503,
            error.code,
            "a part of this installation does not answer at the moment; try again later, or ask its operator",
            headers={"Retry-After": str(ASK_AGAIN_AFTER)},
        )
    return ProblemError(500, error.code, "this installation cannot do that as it is set up; ask its operator")


def unforeseen(error: Exception) -> ProblemError:
    """Return what a caller is told of an error that should not happen; the log gets its kind and where it arose.

    Its message may quote data, so nobody gets that.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    log.error("unforeseen %s in %s", type(error).__name__, where)
    return ProblemError(500, "internal", "something went wrong that should not; the operator's log says where")


def answer_problems(app: FastAPI) -> None:
    """Make every error of the app's endpoints a problem."""

    @app.exception_handler(ProblemError)
    async def on_problem(_: Request, problem: ProblemError) -> JSONResponse:
        return problem.response()

    @app.exception_handler(ExportPipelineError)
    async def on_our_error(_: Request, error: ExportPipelineError) -> JSONResponse:
        return as_problem(error).response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid_input(_: Request, error: RequestValidationError) -> JSONResponse:
        return invalid_input(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def on_http_exception(_: Request, error: HTTPException) -> JSONResponse:
        return _of_the_framework(error).response()


def invalid_input(mistakes: Sequence[Mapping[str, Any]]) -> ProblemError:
    """Return what a caller is told of input that the shape of an endpoint does not allow."""
    errors = [
        FieldProblem(field=_field(mistake), message=str(mistake["msg"]).removeprefix("Value error, "))
        for mistake in mistakes
    ]
    return ProblemError(422, BadInputError.code, "the request does not have the shape it must have", errors=errors)


def _field(mistake: Mapping[str, Any]) -> str:
    """Return where a mistake is, as far down as names are ours: what the caller named may be data."""
    ours = mistake["loc"][:-1] if mistake["type"] == "extra_forbidden" else mistake["loc"]
    return ".".join(str(part) for part in ours[:3])


def _of_the_framework(error: HTTPException) -> ProblemError:
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return not_found()
    if error.status_code == 405:
        return ProblemError(405, "method_not_allowed", "this method is not for this path", headers=headers)
    if error.status_code == 413:
        return too_large()
    if error.status_code == 400:
        return ProblemError(400, BadInputError.code, "the body cannot be read; send JSON", headers=headers)
    return ProblemError(error.status_code, "refused", HTTPStatus(error.status_code).phrase, headers=headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of an endpoint that may answer with these problems."""
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
