"""Usage by HTTP: counters by day and app, in pages, of whoever may see them."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from export_pipeline.access.usage import Counted, add_counts
from export_pipeline_tests.gateway.conftest import APP, OTHER_APP, House

LONG_AGO = date(2020, 2, 1)


@pytest.fixture(scope="module", autouse=True)
def counters(house: House) -> None:
    """Three days of two apps."""
    counts = Counter(
        {
            Counted(LONG_AGO + timedelta(days=day), app_id, what): 10 * day + 1
            for day in range(3)
            for app_id in (APP, OTHER_APP)
            for what in ("calls", "downloads")
        }
    )
    with house.exporter.database.begin() as connection:
        add_counts(connection, counts)


def walk(client: httpx.Client, **params: Any) -> list[tuple[str, str, str, int]]:
    """Return all counters, page by page."""
    found: list[tuple[str, str, str, int]] = []
    cursor = None
    while True:
        answer = client.get("/v1/usage", params=params | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        found += [(row["day"], row["app_id"], row["what"], row["count"]) for row in answer.json()["usage"]]
        cursor = answer.json()["next"]
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 4, 5, 1000])
def test_pages_hold_each_counter_once(house: House, limit: int) -> None:
    everybody = house.client(house.token("reporter", "*"))
    found = walk(everybody, since="2020-02-01", until="2020-02-03", limit=limit)
    assert found == sorted(found)
    assert len(found) == 12
    assert found[0] == ("2020-02-01", APP, "calls", 1)


def test_a_token_of_an_app_sees_its_own(house: House) -> None:
    mine = house.client(house.token("reporter", APP))
    assert {row[1] for row in walk(mine, since="2020-02-01", until="2020-02-02")} == {APP}
    assert mine.get("/v1/usage", params={"app_id": OTHER_APP}).status_code == 404


def test_what_was_just_done_is_counted(house: House) -> None:
    client = house.client(house.token("maintainer", APP))
    client.post("/v1/exports", json={"app_id": APP, "uids": ["a"]})
    client.delete("/v1/exports/none")
    today = datetime.now(UTC).date().isoformat()
    found = {row[2]: row[3] for row in walk(client) if row[0] == today}
    assert found["exports_requested"] >= 1
    assert found["calls"] >= 1


@pytest.mark.parametrize(
    ("since", "until", "status"),
    [
        ("2020-02-02", "2020-02-01", 400),
        ("2010-01-01", "2020-02-01", 400),
        ("yesterday", "2020-02-01", 422),
        ("0001-01-01", "0001-01-01", 200),
        (None, "0001-01-01", 200),
        ("9999-12-31", "9999-12-31", 200),
    ],
)
def test_days_are_checked(house: House, since: str | None, until: str, status: int) -> None:
    client = house.client(house.token("reporter", APP))
    params = {"until": until} | ({} if since is None else {"since": since})
    assert client.get("/v1/usage", params=params).status_code == status


def test_a_cursor_is_for_its_own_days(house: House) -> None:
    everybody = house.client(house.token("reporter", "*"))
    params: dict[str, str | int] = {"since": "2020-02-01", "until": "2020-02-03", "limit": 1}
    cursor = everybody.get("/v1/usage", params=params).json()["next"]
    other = everybody.get("/v1/usage", params={"since": "2020-02-02", "until": "2020-02-03", "cursor": cursor})
    assert other.status_code in (400, 422)
