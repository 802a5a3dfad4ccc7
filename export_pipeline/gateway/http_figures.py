"""What this process answers: how often, by route and status, and how many answers are on their way."""

from collections.abc import MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_ROUTE = "none"
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class HttpFigures:
    """The counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "export_pipeline_http_requests",
            "Answered requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.under_way = Gauge(
            "export_pipeline_http_responses_in_flight",
            "Answers that are being sent: downloads, streams of events.",
            ["route"],
            registry=self.registry,
        )


class CountAnswers:
    """The middleware that counts."""

    def __init__(self, app: ASGIApp, figures: HttpFigures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun: str | None = None

        async def counted_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and begun is None:
                begun = route_of(scope)
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._figures.answers.labels(method, begun, message["status"]).inc()
                self._figures.under_way.labels(begun).inc()
            await send(message)

        try:
            await self._app(scope, receive, counted_send)
        finally:
            if begun is not None:
                self._figures.under_way.labels(begun).dec()


def route_of(scope: MutableMapping[str, Any]) -> str:
    """Return the template of the route that a request has come to: of those there are few, of paths any number."""
    return getattr(scope.get("route"), "path", NO_ROUTE)
