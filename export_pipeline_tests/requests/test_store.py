"""Each change of a request's state happens once, from the state it expects, and is in the history."""

import json
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from export_pipeline.errors import BadInputError, StaleRequestError, UnknownRequestError
from export_pipeline.requests import rows
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.database import RequestsDatabaseError
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.schema import export_requests
from export_pipeline.requests.store import DUE_AFTER, HERE, RequestStore

pytest_plugins = "export_pipeline_tests.postgres"

SECRET = "secret-uid"
NEW = NewRequest("app", [SECRET], requested_by="me")


_numbers = count()


def submit(store: RequestStore) -> Request:
    """A request for something that nobody else asks for."""
    return store.submit(replace(NEW, uids=[SECRET, str(next(_numbers))]))


def claim(store: RequestStore, *requests: Request) -> str:
    """Claim requests in a batch of their own; return its id."""
    batch = Batch(new_id(), tuple(request.id for request in requests))
    assert sorted(store.claim(batch)) == sorted(batch.request_ids)
    return batch.id


def complete(store: RequestStore, request_id: str, batch_id: str) -> None:
    store.complete(
        request_id,
        batch_id,
        documents=3,
        result_uri="/exports/export.json",
        result_bytes=100,
        result_sha256="ab" * 32,
        expires_at=datetime.now(UTC) + timedelta(days=7),
    )


def overwrite(store: RequestStore, request_id: str, **values: object) -> None:
    """Set what no change of state sets yet."""
    with store._engine.begin() as connection:
        connection.execute(update(export_requests).where(export_requests.c.id == request_id).values(**values))


def request_in(store: RequestStore, status: str) -> Request:
    """A request that was brought into ``status``."""
    request = submit(store)
    if status == "cancelled":
        overwrite(store, request.id, status="cancelled", batch_id=new_id())
    elif status != "pending":
        batch_id = claim(store, request)
        if status == "failed":
            store.fail(request.id, batch_id, code="incomplete", message="c: one was lost")
        if status in ("completed", "expired"):
            complete(store, request.id, batch_id)
        if status == "expired":
            store.expire(request.id)
    assert store.get(request.id).status == status
    return store.get(request.id)


def names_of_events(store: RequestStore, request_id: str) -> list[str]:
    return [event["event"] for event in store.events(request_id)]


# Submitting


def test_a_new_request_is_pending(store: RequestStore) -> None:
    before = datetime.now(UTC)
    request = store.submit(NEW)
    assert (request.status, request.attempt, request.kind, request.app_id) == ("pending", 0, "user_export", "app")
    assert request.selection == {"uids": [SECRET]}
    assert request.options == {"format": "json", "json_mode": "relaxed"}
    assert before <= request.requested_at <= datetime.now(UTC)
    assert request.due_at == request.requested_at + DUE_AFTER
    assert (request.batch_id, request.run_id, request.started_at, request.finished_at) == (None,) * 4
    assert store.get(request.id) == request
    assert store.pending(10) == [request]


def test_a_request_that_is_run_here_is_never_seen_as_pending(store: RequestStore) -> None:
    request = store.submit(NEW, run_here=True)
    assert (request.status, request.attempt, request.run_id) == ("running", 1, HERE)
    assert request.batch_id is not None
    assert store.pending(10) == []
    assert store.unstarted_batches() == {}
    assert names_of_events(store, request.id) == ["submitted", "claimed"]
    complete(store, request.id, request.batch_id)


def test_an_unknown_id_is_bad_input(store: RequestStore) -> None:
    with pytest.raises(UnknownRequestError, match="no request has this Export ID"):
        store.get("no-such-id")
    assert issubclass(UnknownRequestError, BadInputError)
    assert store.events("no-such-id") == []


# The way through the states


def test_the_way_to_a_completed_and_expired_export(store: RequestStore) -> None:
    request = submit(store)
    batch_id = claim(store, request)
    running = store.get(request.id)
    assert (running.status, running.attempt, running.batch_id, running.run_id) == ("running", 1, batch_id, None)
    assert running.started_at is not None

    assert store.unstarted_batches() == {batch_id: 1}
    assert store.attach_run(batch_id, "run-1") == 1
    assert store.get(request.id).run_id == "run-1"
    assert store.unstarted_batches() == {}

    store.set_totals(batch_id, {request.id: 3})
    store.progress(request.id, batch_id, documents_done=2, bytes_written=50)
    running = store.get(request.id)
    assert (running.documents_done, running.documents_total, running.bytes_written) == (2, 3, 50)

    complete(store, request.id, batch_id)
    done = store.get(request.id)
    assert (done.status, done.documents_done, done.documents_total) == ("completed", 3, 3)
    assert (done.result_uri, done.result_bytes, done.bytes_written) == ("/exports/export.json", 100, 100)
    assert done.result_sha256 == "ab" * 32
    assert done.finished_at is not None
    assert done.expires_at is not None

    assert store.expired(done.expires_at - timedelta(seconds=1)) == []
    assert store.expired(done.expires_at) == [done]
    store.expire(request.id)
    expired = store.get(request.id)
    assert (expired.status, expired.result_uri) == ("expired", None)
    assert store.expired(done.expires_at) == []


def test_the_way_through_a_failure_and_a_retry(store: RequestStore) -> None:
    request = submit(store)
    first = claim(store, request)
    store.attach_run(first, "run-1")
    store.progress(request.id, first, documents_done=2, bytes_written=50)
    store.fail(request.id, first, code="incomplete", message="c: one was lost")
    failed = store.get(request.id)
    assert (failed.status, failed.error_code, failed.error_message) == ("failed", "incomplete", "c: one was lost")
    assert failed.finished_at is not None

    store.retry(request.id, "operator")
    retried = store.get(request.id)
    assert (retried.status, retried.attempt, retried.finished_at) == ("pending", 1, None)

    second = claim(store, request)
    again = store.get(request.id)
    assert (again.status, again.attempt, again.batch_id, again.run_id) == ("running", 2, second, None)
    assert (again.error_code, again.error_message, again.documents_done, again.bytes_written) == (None, None, 0, 0)
    assert store.unstarted_batches() == {second: 2}


CHANGES: dict[str, Callable[[RequestStore, Request], object]] = {
    "retry": lambda store, request: store.retry(request.id, "me"),
    "expire": lambda store, request: store.expire(request.id),
    "progress": lambda store, request: store.progress(
        request.id, request.batch_id or "", documents_done=9, bytes_written=9
    ),
    "complete": lambda store, request: complete(store, request.id, request.batch_id or ""),
    "fail": lambda store, request: store.fail(request.id, request.batch_id or "", code="x", message="x"),
}
ALLOWED = {"retry": "failed", "expire": "completed", "progress": "running", "complete": "running", "fail": "running"}
STATUSES = ["pending", "running", "completed", "expired", "failed", "cancelled"]


@pytest.mark.parametrize(
    ("change", "status"),
    [(change, status) for change in CHANGES for status in STATUSES if ALLOWED[change] != status],
)
def test_a_change_from_another_state_than_it_expects_is_refused(store: RequestStore, change: str, status: str) -> None:
    request = request_in(store, status)
    history = store.events(request.id)
    with pytest.raises(StaleRequestError, match=f"^request {request.id} is not '{ALLOWED[change]}' any more") as raised:
        CHANGES[change](store, request)
    assert store.get(request.id) == request
    assert store.events(request.id) == history
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(("change", "status"), ALLOWED.items())
def test_a_change_from_the_state_it_expects_is_made(store: RequestStore, change: str, status: str) -> None:
    request = request_in(store, status)
    CHANGES[change](store, request)
    assert store.get(request.id) != request


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "pending"])
def test_what_is_not_pending_is_not_claimed(store: RequestStore, status: str) -> None:
    request = request_in(store, status)
    assert store.claim(Batch(new_id(), (request.id,))) == []
    assert store.get(request.id) == request


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "running"])
def test_what_does_not_run_has_no_totals_and_no_run(store: RequestStore, status: str) -> None:
    request = request_in(store, status)
    store.set_totals(request.batch_id or "", {request.id: 9})
    assert store.attach_run(request.batch_id or "", "run") == 0
    assert store.get(request.id) == request


# Several at once


def test_a_claim_takes_only_what_is_still_pending(store: RequestStore) -> None:
    taken, free = submit(store), submit(store)
    first = claim(store, taken)
    assert store.claim(Batch(new_id(), (taken.id, free.id))) == [free.id]
    assert store.get(taken.id).batch_id == first


def test_a_claim_of_more_than_one_statement_holds(store: RequestStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_CHUNK", 3)
    requests = [submit(store) for _ in range(8)]
    batch_id = claim(store, *requests)
    assert [request.id for request in store.of_batch(batch_id)] == [request.id for request in requests]
    assert [request.id for request in store.running()] == [request.id for request in requests]


def test_threads_and_stores_never_claim_the_same_request(url: str, store: RequestStore) -> None:
    requests = [submit(store) for _ in range(30)]
    stores = [RequestStore.open(url) for _ in range(2)]

    def claim_all(number: int) -> list[str]:
        own = stores[number % 2]
        return [taken for request in requests for taken in own.claim(Batch(new_id(), (request.id,)))]

    with ThreadPoolExecutor(6) as threads:
        claimed = [request_id for ids in threads.map(claim_all, range(6)) for request_id in ids]
    assert sorted(claimed) == [request.id for request in requests]
    assert all(names_of_events(store, request.id) == ["submitted", "claimed"] for request in requests)
    assert {request.attempt for request in store.running()} == {1}
    for own in stores:
        own.close()


def test_processes_never_claim_the_same_request(url: str, store: RequestStore) -> None:
    requests = [submit(store) for _ in range(60)]
    program = """
import json, sys
from export_pipeline.requests.batches import plan_batches
from export_pipeline.requests.store import RequestStore
store = RequestStore.open(sys.argv[1])
claimed = []
print("ready", flush=True)
sys.stdin.readline()
while pending := store.pending(10):
    for batch in plan_batches(pending, 5):
        claimed += store.claim(batch)
store.close()
print(json.dumps(claimed))
"""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", program, url], **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    claimed = [request_id for process in processes for request_id in json.loads(process.communicate(timeout=60)[0])]
    assert sorted(claimed) == [request.id for request in requests]


def test_a_run_that_was_given_up_can_change_nothing_any_more(store: RequestStore) -> None:
    request = submit(store)
    old = claim(store, request)
    store.fail(request.id, old, code="lost", message="the run was lost")
    store.retry(request.id, "me")
    new = claim(store, request)
    current = store.get(request.id)

    given_up: list[Callable[[], object]] = [
        lambda: store.progress(request.id, old, documents_done=9, bytes_written=9),
        lambda: complete(store, request.id, old),
        lambda: store.fail(request.id, old, code="x", message="x"),
    ]
    for change in given_up:
        with pytest.raises(StaleRequestError):
            change()
    store.set_totals(old, {request.id: 9})
    assert store.attach_run(old, "old-run") == 0
    assert store.of_batch(old) == []
    assert store.get(request.id) == current
    complete(store, request.id, new)


# Reading


def test_the_most_urgent_are_pending_first(store: RequestStore) -> None:
    late, soon, important, next_one = (submit(store) for _ in range(4))
    overwrite(store, soon.id, due_at=datetime.now(UTC))
    overwrite(store, important.id, priority=1)
    expected = [important.id, soon.id, late.id, next_one.id]
    assert [request.id for request in store.pending(10)] == expected
    assert [request.id for request in store.pending(2)] == expected[:2]


def test_the_latest_come_first(store: RequestStore) -> None:
    requests = [submit(store) for _ in range(5)]
    assert [request.id for request in store.latest(3)] == [request.id for request in requests[:1:-1]]


def test_times_are_kept_in_utc(store: RequestStore) -> None:
    request = submit(store)
    far_east = datetime(2026, 11, 1, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    overwrite(store, request.id, due_at=far_east)
    due_at = store.get(request.id).due_at
    assert due_at == far_east
    assert due_at is not None
    assert due_at.tzinfo == UTC


# The history


def test_the_history_only_grows_and_is_in_order(store: RequestStore) -> None:
    request, other = submit(store), submit(store)
    first = claim(store, request, other)
    early = store.events(request.id)
    store.fail(request.id, first, code="lost", message="the run was lost")
    store.retry(request.id, "operator")
    complete(store, request.id, claim(store, request))
    store.expire(request.id)

    history = store.events(request.id)
    assert history[: len(early)] == early
    assert [(event["event"], event["actor"]) for event in history] == [
        ("submitted", "me"),
        ("claimed", "sensor"),
        ("failed", "pipeline"),
        ("retried", "operator"),
        ("claimed", "sensor"),
        ("completed", "pipeline"),
        ("expired", "pipeline"),
    ]
    assert [event["at"] for event in history] == sorted(event["at"] for event in history)
    assert history[2]["detail"] == "lost"
    assert names_of_events(store, other.id) == ["submitted", "claimed"]


# What nobody must read


def test_a_request_does_not_show_its_uids(store: RequestStore) -> None:
    request = store.submit(NEW)
    assert request.selection["uids"] == [SECRET]
    assert SECRET not in repr(request)
    assert SECRET not in repr(store.events(request.id))


def test_a_database_that_fails_is_told_without_uids_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    store = RequestStore.open(f"sqlite:///{tmp_path}/requests.db")
    with sqlite3.connect(tmp_path / "requests.db") as connection:
        connection.execute("ALTER TABLE request_events RENAME TO elsewhere")
    with pytest.raises(RequestsDatabaseError, match=r"failed \(OperationalError\); check EXPORT_PIPELINE_") as raised:
        submit(store)
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    connection.execute("ALTER TABLE elsewhere RENAME TO request_events")
    connection.close()
    assert store.latest() == []
    store.close()
