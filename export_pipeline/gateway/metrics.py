"""The endpoint for Prometheus: what the requests table says when it is asked, and what this process has answered."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import accumulate
from typing import Annotated, Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from export_pipeline.access.roles import Permission
from export_pipeline.gateway.authorization import OPEN, Caller, Guarded, needs
from export_pipeline.gateway.problems import documented
from export_pipeline.gateway.request_figures import DURATIONS, SIZES, Distribution, RequestFigures, request_figures
from export_pipeline.gateway.services import Here, Services
from export_pipeline.requests.backups import KIND as APP_BACKUP
from export_pipeline.requests.models import ALL_APPS, FINISHED, LIVE, USER_EXPORT
from export_pipeline.requests.restores import KIND as RESTORE
from export_pipeline.settings import Settings

KINDS = (APP_BACKUP, RESTORE, USER_EXPORT)
"""Told of although there may be none."""

_PREFIX = "export_pipeline"
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
}

router = APIRouter(route_class=Guarded, tags=["health"])
_open_router = APIRouter(route_class=Guarded, tags=["health"], dependencies=[OPEN])


def served(router_: APIRouter, settings: Settings) -> APIRouter:
    """Return the router to serve: in place of ours, the open one where EXPORT_PIPELINE_METRICS_OPEN says so."""
    return _open_router if router_ is router and settings.metrics_open else router_


@router.get("/metrics", response_class=Response, responses=_TEXT | documented(401, 403, 404, 422, 429, 503))
def metrics(here: Here, caller: Annotated[Caller, needs(Permission.STATUS)]) -> Response:
    """Tell the figures of all apps, as Prometheus reads them, to a token for all apps."""
    caller.enter(ALL_APPS)
    return _exposed(here)


@_open_router.get("/metrics", name="metrics", response_class=Response, responses=_TEXT | documented(503))
def open_metrics(here: Here) -> Response:
    """Tell the figures of all apps, as Prometheus reads them."""
    return _exposed(here)


def _exposed(here: Services) -> Response:
    of_the_table = CollectorRegistry()
    now = datetime.now(UTC)
    of_the_table.register(_Told(request_figures(here.exporter.database, now), now))
    text = generate_latest(of_the_table) + generate_latest(here.http_figures.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


class _Told(Collector):
    """Figures that are known already."""

    def __init__(self, figures: RequestFigures, now: datetime) -> None:
        self._metrics = list(told(figures, now))

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def told(figures: RequestFigures, now: datetime) -> Iterable[Metric]:
    """Yield the figures as Prometheus names them."""
    states = GaugeMetricFamily(f"{_PREFIX}_requests", "Requests by kind and state.", labels=["kind", "status"])
    age = GaugeMetricFamily(
        f"{_PREFIX}_queue_age_seconds", "Since when the oldest pending request was asked for.", labels=["kind"]
    )
    overdue = GaugeMetricFamily(
        f"{_PREFIX}_requests_overdue", "Requests that are due and not finished.", labels=["kind"]
    )
    for kind in sorted({*KINDS, *(kind for kind, _ in figures.by_status)}):
        for status in sorted(LIVE | FINISHED):
            states.add_metric([kind, status], figures.by_status.get((kind, status), 0))
        oldest = figures.oldest_pending.get(kind, now)
        age.add_metric([kind], max(0.0, (now - oldest).total_seconds()))
        overdue.add_metric([kind], figures.overdue.get(kind, 0))
    yield from (states, age, overdue)
    durations = HistogramMetricFamily(
        f"{_PREFIX}_request_duration_seconds", "How long completed requests took to make.", labels=["kind"]
    )
    sizes = HistogramMetricFamily(f"{_PREFIX}_request_bytes", "How large completed requests are.", labels=["kind"])
    for family, bounds, found in ((durations, DURATIONS, figures.durations), (sizes, SIZES, figures.sizes)):
        for kind, distribution in sorted(found.items()):
            family.add_metric([kind], _buckets(bounds, distribution), distribution.sum)
        yield family


def _buckets(bounds: Iterable[float], distribution: Distribution) -> list[tuple[str, float]]:
    """Return, as Prometheus has it, how many values are at most each bound."""
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(distribution.counts), strict=True))
