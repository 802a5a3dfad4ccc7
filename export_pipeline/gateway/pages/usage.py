"""How much was asked for and handed over, as small charts and as a table."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Request, Response

from export_pipeline.access.roles import Permission
from export_pipeline.access.usage import (
    BACKUPS_REQUESTED,
    CALLS,
    DOWNLOADED_BYTES,
    DOWNLOADS,
    EVENTS_READ,
    EXPORTS_REQUESTED,
    REFUSALS,
    usage,
)
from export_pipeline.gateway.authorization import Caller, needs
from export_pipeline.gateway.pages.rendering import render
from export_pipeline.gateway.pages.route import PageRoute
from export_pipeline.gateway.pages.shown import number, size
from export_pipeline.gateway.services import Here

DAYS = 30
WIDTH, HEIGHT = 300, 60
"""Of a chart, in its own units."""

_SHOWN: Mapping[str, tuple[str, Callable[[int], str]]] = {
    EXPORTS_REQUESTED: ("Exports asked for", number),
    DOWNLOADS: ("Downloads", number),
    DOWNLOADED_BYTES: ("Downloaded", size),
    BACKUPS_REQUESTED: ("Backups asked for", number),
    EVENTS_READ: ("Events read", number),
    CALLS: ("Calls", number),
    REFUSALS: ("Calls refused", number),
}

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Bar:
    """One day of a chart."""

    x: float
    y: float
    width: float
    height: float
    day: date
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One counter over the days."""

    what: str
    title: str
    total: str
    most: str
    bars: Sequence[Bar]
    by_day: Sequence[str]


@router.get("/usage", name="show_usage")
def show_usage(
    request: Request, here: Here, caller: Annotated[Caller, needs(Permission.STATUS)], app_id: str = ""
) -> Response:
    """Show the counters of the last days."""
    confined = caller.confine(app_id.strip() or None)
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
    counts: Counter[tuple[str, date]] = Counter()
    for row in usage(here.exporter.database, since=days[0], until=today, app_id=confined):
        counts[row["what"], row["day"]] += row["count"]
    charts = [
        chart(what, title, [(day, counts[what, day]) for day in days], words) for what, (title, words) in _SHOWN.items()
    ]
    return render(
        request, "usage.html.jinja", charts=charts, days=days, chosen=app_id.strip(), width=WIDTH, height=HEIGHT
    )


def chart(what: str, title: str, by_day: Sequence[tuple[date, int]], words: Callable[[int], str]) -> Chart:
    """Return a chart: its highest bar is as high as the chart, and no day that counts is without one."""
    most = max((count for _, count in by_day), default=0)
    step = WIDTH / max(len(by_day), 1)
    bars = []
    for position, (day, count) in enumerate(by_day):
        height = round(max(count / most * HEIGHT, 1), 2) if count else 0.0
        bars.append(
            Bar(round(position * step, 2), round(HEIGHT - height, 2), round(step * 0.75, 2), height, day, words(count))
        )
    return Chart(
        what=what,
        title=title,
        total=words(sum(count for _, count in by_day)),
        most=words(most),
        bars=bars,
        by_day=[words(count) for _, count in by_day],
    )
