"""The history of accesses and the counters: all that happened, in few transactions, and unchangeable."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, text, update
from sqlalchemy.exc import DatabaseError

from export_pipeline.access import audit
from export_pipeline.access.audit import AccessEvent, Recorder, accesses
from export_pipeline.access.usage import CALLS, DOWNLOADS, Counted, today, usage
from export_pipeline.requests.database import RequestsDatabaseError
from export_pipeline.requests.schema import access_events

pytest_plugins = "export_pipeline_tests.postgres"

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
ACCESS = AccessEvent("token:1", "show_export", 200, "mine", "id")


def test_an_access_is_there_once_its_future_is_done(engine: Engine) -> None:
    recorder = Recorder(engine)
    recorder.record(replace(ACCESS, at=NOW)).result(30)
    (found,) = accesses(engine)
    assert found["at"] == NOW
    assert {name: found[name] for name in ("actor", "action", "status", "app_id", "target")} == {
        "actor": "token:1",
        "action": "show_export",
        "status": 200,
        "app_id": "mine",
        "target": "id",
    }
    recorder.close()


def test_many_at_once_share_transactions_and_none_is_lost(engine: Engine) -> None:
    transactions: list[Any] = []
    event.listen(engine, "commit", transactions.append)
    recorder = Recorder(engine)
    counts = Counter({today("mine", CALLS): 1, today("mine", DOWNLOADS): 2})
    barrier = threading.Barrier(16)

    def record(_: int) -> None:
        barrier.wait(30)
        for future in [recorder.record(ACCESS, counts) for _ in range(50)]:
            future.result(30)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(record, range(16)))
    recorder.close()
    assert len(accesses(engine, limit=1000)) == 800
    assert len(transactions) < 400
    day = datetime.now(UTC).date()
    found = {row["what"]: row["count"] for row in usage(engine, since=day - timedelta(days=1), until=day)}
    assert found == {CALLS: 800, DOWNLOADS: 1600}


def test_closing_records_what_was_handed_over(engine: Engine) -> None:
    recorder = Recorder(engine)
    futures = [recorder.record(ACCESS) for _ in range(100)]
    recorder.close()
    recorder.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert len(accesses(engine)) == 100


def test_who_waits_hears_of_a_failure_and_the_next_is_recorded(engine: Engine) -> None:
    recorder = Recorder(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE access_events RENAME TO hidden"))
    with pytest.raises(RequestsDatabaseError):
        recorder.record(ACCESS).result(30)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO access_events"))
    recorder.record(ACCESS).result(30)
    recorder.close()
    assert len(accesses(engine)) == 1


def test_more_than_can_wait_are_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_WAITING", 2)
    recorder = Recorder(engine)
    monkeypatch.setattr(recorder, "_start", lambda: None)
    futures = [recorder.record(ACCESS) for _ in range(3)]
    assert [future.done() for future in futures] == [False, False, True]
    assert isinstance(futures[2].exception(), RequestsDatabaseError)


@pytest.mark.parametrize("change", [update(access_events).values(actor="nobody"), delete(access_events)])
def test_nobody_changes_the_history(engine: Engine, change: Any) -> None:
    recorder = Recorder(engine)
    recorder.record(ACCESS).result(30)
    recorder.close()
    with pytest.raises(DatabaseError, match="only grows"), engine.begin() as connection:
        connection.execute(change)
    assert len(accesses(engine)) == 1


def test_usage_is_by_day_and_app(engine: Engine) -> None:
    recorder = Recorder(engine)
    days = [date(2026, 1, day) for day in (1, 2, 3)]
    for day in days:
        counts = Counter({Counted(day, app, CALLS): day.day for app in ("mine", "theirs")})
        recorder.record(counts=counts).result(30)
    recorder.record(counts=Counter({Counted(days[2], "mine", CALLS): 10})).result(30)
    recorder.close()
    found = usage(engine, since=days[1], until=days[2], app_id="mine")
    assert found == [
        {"day": days[1], "app_id": "mine", "what": CALLS, "count": 2},
        {"day": days[2], "app_id": "mine", "what": CALLS, "count": 13},
    ]
    assert accesses(engine) == []
