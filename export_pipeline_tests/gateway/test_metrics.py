"""/metrics: the figures are the table's, whichever database it is in; who may read them; what this process answers."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert
from starlette.types import Message, Receive, Scope, Send

from export_pipeline.gateway.http_figures import CountAnswers, HttpFigures
from export_pipeline.gateway.metrics import told
from export_pipeline.gateway.request_figures import DURATIONS, SIZES, request_figures
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.database import open_database
from export_pipeline.requests.schema import export_requests
from export_pipeline_tests.gateway.conftest import APP, House, OpenHouse

pytest_plugins = "export_pipeline_tests.postgres"

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def row(status: str, **more: Any) -> dict[str, Any]:
    """A row of the table."""
    return {
        "id": new_id(),
        "kind": "user_export",
        "app_id": APP,
        "selection": {},
        "options": {},
        "status": status,
        "attempt": 1,
        "priority": 0,
        "requested_by": "test",
        "requested_at": NOW - timedelta(days=1),
        "updated_at": NOW,
        "due_at": NOW + timedelta(days=1),
        "started_at": None,
        "finished_at": None,
        "result_bytes": None,
        "documents_done": 0,
        "bytes_written": 0,
    } | more


def made(seconds: float, size: int, status: str = "completed", **more: Any) -> dict[str, Any]:
    return row(status, started_at=NOW, finished_at=NOW + timedelta(seconds=seconds), result_bytes=size, **more)


ROWS = [
    row("pending", requested_at=NOW - timedelta(hours=2), due_at=NOW - timedelta(seconds=1)),
    row("pending", requested_at=NOW - timedelta(hours=3)),
    row("pending", requested_at=NOW - timedelta(minutes=1), kind="app_backup", due_at=None),
    row("running", started_at=NOW, due_at=NOW - timedelta(days=1)),
    row("failed", due_at=NOW - timedelta(days=1), started_at=NOW, finished_at=NOW + timedelta(days=3)),
    made(0.25, 10_000),
    made(5, 10_001),
    made(-3, 50_000, status="expired"),
    made(10**7, 10**13),
    made(30, 2 * 10**9, kind="app_backup"),
]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/requests.db"
    return str(request.getfixturevalue("postgres_url"))


def samples(text_or_families: Any) -> Samples:
    """Return what was told, by name and labels."""
    families = (
        text_string_to_metric_families(text_or_families) if isinstance(text_or_families, str) else text_or_families
    )
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def of(found: Samples, name: str, **labels: str) -> float:
    return found[f"export_pipeline_{name}", frozenset(labels.items())]


def test_the_figures_are_the_tables(url: str) -> None:
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(insert(export_requests), ROWS)
    found = samples(told(request_figures(engine, NOW), NOW))
    engine.dispose()

    exports = {"kind": "user_export"}
    states = {"pending": 2, "running": 1, "failed": 1, "completed": 3, "expired": 1, "cancelled": 0}
    assert {status: of(found, "requests", **exports, status=status) for status in states} == states
    assert of(found, "requests", kind="app_backup", status="pending") == 1
    assert of(found, "requests", kind="restore", status="pending") == 0
    assert of(found, "queue_age_seconds", **exports) == 3 * 3600
    assert of(found, "queue_age_seconds", kind="app_backup") == 60
    assert of(found, "queue_age_seconds", kind="restore") == 0
    assert of(found, "requests_overdue", **exports) == 2
    assert of(found, "requests_overdue", kind="app_backup") == 0

    durations = [of(found, "request_duration_seconds_bucket", **exports, le=str(float(le))) for le in DURATIONS]
    assert durations == [2, 3, *[3] * 8]
    assert of(found, "request_duration_seconds_bucket", **exports, le="+Inf") == 4
    assert of(found, "request_duration_seconds_count", **exports) == 4
    assert of(found, "request_duration_seconds_sum", **exports) == pytest.approx(0.25 + 5 + 0 + 10**7, abs=0.01)
    sizes = [of(found, "request_bytes_bucket", **exports, le=str(float(le))) for le in SIZES]
    assert sizes == [1, *[3] * 8]
    assert of(found, "request_bytes_sum", **exports) == 10**13 + 70_001
    assert of(found, "request_bytes_count", kind="app_backup") == 1


def test_an_empty_table_has_figures(url: str) -> None:
    engine = open_database(url)
    found = samples(told(request_figures(engine, NOW), NOW))
    engine.dispose()
    assert of(found, "requests", kind="user_export", status="pending") == 0
    assert of(found, "queue_age_seconds", kind="app_backup") == 0


def scrape(client: httpx.Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return samples(answer.text)


@pytest.fixture(scope="module")
def operator(house: House) -> httpx.Client:
    return house.client(house.token("reporter", "*"))


def test_a_token_for_all_apps_reads_them(house: House, operator: httpx.Client) -> None:
    before = scrape(operator)
    house.pending()
    after = scrape(operator)
    pending = {"kind": "user_export", "status": "pending"}
    assert of(after, "requests", **pending) == of(before, "requests", **pending) + 1


def test_nobody_else_does_unless_the_operator_opens_them(house: House, open_house: OpenHouse) -> None:
    assert house.client().get("/metrics").status_code == 401
    assert house.client(house.token("owner", APP)).get("/metrics").status_code == 404
    open_to_all = open_house(metrics_open=True)
    assert of(scrape(open_to_all.client()), "requests", kind="user_export", status="pending") == 0


def test_they_name_no_app_and_nobody(house: House, operator: httpx.Client) -> None:
    house.completed()
    house.client(house.token("developer")).get(f"/v1/apps/{APP}/events")
    text = operator.get("/metrics").text
    assert f'"{APP}"' not in text
    assert f"/{APP}/" not in text
    assert 'route="/v1/apps/{app_id}/events"' in text


def test_answers_are_counted_by_route_and_status(house: House, operator: httpx.Client) -> None:
    nobody = house.client()
    answered = {
        ("GET", "/healthz", "200"): 2,
        ("GET", "/v1/exports/{export_id}", "401"): 1,
        ("other", "none", "404"): 1,
        ("POST", "/healthz", "405"): 1,
        ("GET", "none", "404"): 3,
    }
    before = scrape(operator)
    nobody.get("/healthz")
    nobody.get("/healthz")
    nobody.post("/healthz")
    nobody.get("/v1/exports/some-id")
    nobody.request("PROPFIND", "/nothing")
    for n in range(3):
        nobody.get(f"/nothing/{n}")
    after = scrape(operator)
    for (method, route, status), count in answered.items():
        key = (
            "export_pipeline_http_requests_total",
            frozenset({"method": method, "route": route, "status": status}.items()),
        )
        assert after[key] - before.get(key, 0) == count, key


def test_an_answer_is_in_flight_until_it_has_ended() -> None:
    figures = HttpFigures()
    seen = []

    def endpoint() -> None:
        """The middleware looks at the path alone."""

    route = APIRoute("/slow/{n}", endpoint)

    def under_way() -> float:
        name = "export_pipeline_http_responses_in_flight"
        return figures.registry.get_sample_value(name, {"route": route.path}) or 0

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(under_way())
        await send({"type": "http.response.start", "status": 200})
        seen.append(under_way())
        raise ConnectionError

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        """Nobody listens."""

    with pytest.raises(ConnectionError):
        asyncio.run(CountAnswers(slow, figures)({"type": "http", "method": "GET", "route": route}, receive, send))
    assert [*seen, under_way()] == [0, 1, 0]


@pytest.fixture
def large_table(tmp_path: Any) -> Iterator[Any]:
    """A table of 100,000 rows."""
    engine = open_database(f"sqlite:///{tmp_path}/requests.db")
    rows = [made(n % 1000, n * 1000, options={"format": "json"}) for n in range(99_000)]
    rows += [row("pending") for _ in range(1000)]
    with engine.begin() as connection:
        for start in range(0, len(rows), 5000):
            connection.execute(insert(export_requests), rows[start : start + 5000])
    yield engine
    engine.dispose()


def test_a_scrape_of_100_000_rows_is_cheap(large_table: Any) -> None:
    began = time.process_time()  # the machine may have other work
    figures = request_figures(large_table, NOW)
    took = time.process_time() - began
    assert figures.by_status["user_export", "pending"] == 1000
    assert took < 1
