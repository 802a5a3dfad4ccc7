"""The HTTP API, put together. To add endpoints: a module with a ``router`` of Guarded routes, and a row in ROUTERS."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from export_pipeline.exporter import Exporter
from export_pipeline.gateway import (
    backups,
    downloads,
    events,
    exports,
    health,
    links,
    metrics,
    pages,
    schedules,
    tokens,
    usage,
)
from export_pipeline.gateway.accounting import Accounting
from export_pipeline.gateway.authorization import OPEN, Guarded, requirement_of
from export_pipeline.gateway.http_figures import CountAnswers
from export_pipeline.gateway.problems import ProblemBody, answer_problems
from export_pipeline.gateway.protection import BodyLimit, SecurityHeaders, Unforeseen
from export_pipeline.gateway.services import Services

_description = APIRouter(route_class=Guarded, dependencies=[OPEN], include_in_schema=False)

ROUTERS: Sequence[APIRouter] = (
    _description,
    health.router,
    exports.router,
    downloads.router,
    links.router,
    events.router,
    backups.router,
    schedules.router,
    usage.router,
    metrics.router,
    tokens.router,
    *pages.ROUTERS,
)


def create_app(exporter: Exporter) -> FastAPI:
    """Return the API of an installation, as an ASGI application.

    Raises BadInputError without EXPORT_PIPELINE_SECRET_KEY, TypeError for an endpoint that says not who may call.
    """
    services = Services(exporter)
    app = FastAPI(
        title="export_pipeline",
        version=version("export-pipeline"),
        summary="Asks for exports of all that is held about a person, follows them, and hands them over.",
        # The pages for reading it load scripts from elsewhere, and a path with a slash too many would be redirected
        # to whichever host the caller says we are.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        middleware=_middleware(services),
    )
    app.state.services = services
    answer_problems(app)
    for router in (metrics.served(router, services.settings) for router in ROUTERS):
        for route in router.routes:
            requirement_of(route)
        app.include_router(router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@_description.get("/v1/openapi.json")
def openapi(request: Request) -> dict[str, Any]:
    """Return the API's description, in OpenAPI 3.1."""
    described: dict[str, Any] = request.app.openapi()
    return described


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.services.recorder.close()


def _middleware(services: Services) -> list[Middleware]:
    """Return what surrounds the endpoints, the outermost first."""
    origins = services.settings.cors_origins
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Range", "If-Range", "If-None-Match"],
        expose_headers=[
            "Location",
            "Link",
            "Retry-After",
            "ETag",
            "Content-Disposition",
            "Content-Range",
            "Accept-Ranges",
        ],
        max_age=600,
    )
    return [
        *([cors] if origins else []),
        Middleware(CountAnswers, figures=services.http_figures),
        Middleware(SecurityHeaders),
        Middleware(Accounting, services=services),
        Middleware(Unforeseen),
        Middleware(BodyLimit, most=services.settings.max_body_bytes),
    ]


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            openapi_version="3.1.0",
            routes=app.routes,
        )
        schema = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        described["components"]["schemas"] |= {**schema.pop("$defs"), "ProblemBody": schema}
        app.openapi_schema = described
    return app.openapi_schema
