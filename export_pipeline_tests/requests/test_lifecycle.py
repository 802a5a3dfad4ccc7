"""Repeating, joining, cancelling, retrying, due dates, and a history that only grows, on each database."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from export_pipeline.catalog.narrowing import parse_narrowing
from export_pipeline.errors import BadInputError, StaleRequestError
from export_pipeline.requests.batches import Batch, new_id, plan_batches
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.retries import FIRST_DELAY, MOST_RETRIES
from export_pipeline.requests.secrets import SecretStore
from export_pipeline.requests.store import LATEST_DUE, IdempotencyConflictError, RequestStore

pytest_plugins = "export_pipeline_tests.postgres"

NEW = NewRequest("app", ["a", "b"], requested_by="ann")


def claim(store: RequestStore, *requests: Request) -> str:
    batch = Batch(new_id(), tuple(request.id for request in requests))
    assert sorted(store.claim(batch)) == sorted(batch.request_ids)
    return batch.id


def happened(store: RequestStore, request: Request) -> list[tuple[str, str]]:
    return [(event["event"], event["actor"]) for event in store.events(request.id)]


# The same request again


def test_a_repetition_by_its_key_is_the_same_request_whatever_became_of_it(store: RequestStore) -> None:
    keyed = replace(NEW, idempotency_key="order 7")
    request = store.submit(keyed)
    store.cancel(request.id, "ann")
    assert store.submit(keyed).id == request.id
    assert store.submit(replace(keyed, app_id="other")).id != request.id


def test_a_key_is_for_one_content(store: RequestStore) -> None:
    request = store.submit(replace(NEW, idempotency_key="order 7"))
    with pytest.raises(IdempotencyConflictError, match=request.id) as raised:
        store.submit(replace(NEW, uids=["c"], idempotency_key="order 7"))
    assert raised.value.code == "idempotency_conflict"


def test_who_asks_for_what_is_on_its_way_joins_it(store: RequestStore) -> None:
    request = store.submit(NEW)
    assert store.submit(replace(NEW, uids=["b", "a"], requested_by="bob")).id == request.id
    batch_id = claim(store, request)
    assert store.submit(replace(NEW, requested_by="eve")).status == "running"
    assert happened(store, request) == [
        ("submitted", "ann"),
        ("joined", "bob"),
        ("claimed", "sensor"),
        ("joined", "eve"),
    ]
    store.fail(request.id, batch_id, code="incomplete", message="")
    assert store.submit(NEW).id != request.id


@pytest.mark.parametrize(
    "other",
    [
        replace(NEW, app_id="other"),
        replace(NEW, uids=["a"]),
        replace(NEW, format="parquet"),
        replace(NEW, retention=timedelta(days=1)),
        replace(NEW, narrowing=parse_narrowing({"since": "2026-01-01"})),
    ],
)
def test_who_asks_for_something_else_does_not_join(store: RequestStore, other: NewRequest) -> None:
    assert store.submit(NEW).id != store.submit(other).id


def test_nobody_joins_what_has_a_passphrase_or_is_made_right_here(store: RequestStore) -> None:
    rows = [
        store.submit(NEW),
        store.submit(NEW, sealed_passphrase="sealed"),
        store.submit(NEW, sealed_passphrase="sealed"),
        store.submit(NEW, run_here=True),
        store.submit(NEW, run_here=True),
    ]
    assert len({row.id for row in rows}) == len(rows)


def test_many_who_ask_at_once_share_one_request(url: str, store: RequestStore) -> None:
    stores = [RequestStore.open(url) for _ in range(4)]
    with ThreadPoolExecutor(16) as threads:
        joined = list(threads.map(lambda n: stores[n % 4].submit(NEW).id, range(40)))
        keyed = list(
            threads.map(lambda n: stores[n % 4].submit(replace(NEW, app_id="keyed", idempotency_key="k")).id, range(40))
        )
    assert (len(set(joined)), len(set(keyed))) == (1, 1)
    assert [event for event, _ in happened(store, store.get(joined[0]))] == ["submitted"] + ["joined"] * 39
    for own in stores:
        own.close()


# Many claim at once


def test_many_claimers_at_once_never_claim_a_row_twice(url: str, store: RequestStore) -> None:
    ids = [store.submit(NewRequest("app", [str(number)])).id for number in range(200)]
    stores = [RequestStore.open(url) for _ in range(4)]

    def work(number: int) -> list[str]:
        own, claimed = stores[number % 4], []
        while pending := own.pending(20):
            for batch in plan_batches(pending, 7):
                claimed += own.claim(batch)
        return claimed

    with ThreadPoolExecutor(12) as threads:
        claimed = [request_id for ids in threads.map(work, range(12)) for request_id in ids]
    assert sorted(claimed) == sorted(ids)
    assert {row.attempt for row in store.running()} == {1}
    for own in stores:
        own.close()


# Cancelling


def test_a_cancelled_request_forgets_its_passphrase_and_refuses_its_worker(store: RequestStore) -> None:
    request = store.submit(NEW, sealed_passphrase="sealed")
    batch_id = claim(store, request)
    before = store.cancel(request.id, "ann")
    assert (before.status, before.batch_id) == ("running", batch_id)
    assert SecretStore(store._engine).find(request.id) is None
    assert store.renew_lease(batch_id, datetime.now(UTC)) == 0
    with pytest.raises(StaleRequestError):
        store.batch_progress(batch_id, {})
    with pytest.raises(StaleRequestError, match="is cancelled; only a live one"):
        store.cancel(request.id, "ann")
    assert happened(store, request)[-1] == ("cancelled", "ann")


# Trying again


def test_a_passing_fault_is_tried_again_after_a_while_and_not_for_ever(store: RequestStore) -> None:
    request = store.submit(NEW)
    for attempt in range(1, MOST_RETRIES + 2):
        before = datetime.now(UTC)
        status = store.fail(request.id, claim(store, request), code="mongo_unreachable", message="away")
        row = store.get(request.id)
        assert (row.status, row.attempt, row.error_code) == (status, attempt, "mongo_unreachable")
        if attempt <= MOST_RETRIES:
            assert row.status == "pending"
            assert row.not_before is not None
            assert row.not_before > before + FIRST_DELAY * 0.7
            assert store.pending(10) == []
    assert row.status == "failed"
    assert [event for event, _ in happened(store, request)][-4:] == ["failed", "retrying", "claimed", "failed"]
    store.retry(request.id, "ann")
    assert store.get(request.id).retries == 0
    assert store.pending(10) == [store.get(request.id)]


def test_a_clock_that_jumped_back_does_not_hold_up_a_retry(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = store.submit(NEW)
    store.fail(request.id, claim(store, request), code="mongo_unreachable", message="away")
    monkeypatch.setattr("export_pipeline.requests.reading.now", lambda: datetime.now(UTC) - timedelta(days=1))
    assert [row.id for row in store.pending(10)] == [request.id]


def test_a_batch_that_was_lost_comes_back_in_eighths_and_one_that_had_no_server_as_it_was(
    store: RequestStore,
) -> None:
    requests = [store.submit(NewRequest("app", [str(number)])) for number in range(16)]
    store.fail_batch(claim(store, *requests), code="mongo_unreachable", message="away")
    assert {store.get(request.id).company for request in requests} == {None}
    assert len({store.get(request.id).not_before for request in requests}) == 1
    batch_id = claim(store, *requests)
    assert len(store.give_up(batch_id, None, message="gone")) == 16
    assert {store.get(request.id).company for request in requests} == {2}


def test_a_retry_by_hand_waits_for_the_equal_one_that_is_on_its_way(store: RequestStore) -> None:
    request = store.submit(NEW)
    store.fail(request.id, claim(store, request), code="incomplete", message="")
    other = store.submit(NEW)
    with pytest.raises(BadInputError, match="is pending or running; follow that one"):
        store.retry(request.id, "ann")
    store.cancel(other.id, "ann")
    store.retry(request.id, "ann")


def test_a_retry_whose_passphrase_was_forgotten_is_to_be_asked_anew(store: RequestStore) -> None:
    new = replace(NEW, file_options={"passphrase": True})
    request = store.submit(new, sealed_passphrase="sealed")
    store.fail(request.id, claim(store, request), code="incomplete", message="")
    assert store.forget_stale_secrets(datetime.now(UTC) - timedelta(days=7)) == 0
    assert store.forget_stale_secrets(datetime.now(UTC) + timedelta(seconds=1)) == 1
    with pytest.raises(BadInputError, match=r"passphrase .* has been forgotten; ask for a new export"):
        store.retry(request.id, "ann")


def test_secrets_of_what_is_on_its_way_are_kept(store: RequestStore) -> None:
    request = store.submit(NEW, sealed_passphrase="sealed")
    batch_id = claim(store, request)
    store.secrets.keep(batch_id, "key")
    assert store.forget_stale_secrets(datetime.now(UTC) + timedelta(days=1)) == 0


# Due dates


def test_a_due_date_is_extended_with_a_reason_and_within_the_law(store: RequestStore) -> None:
    request = store.submit(NEW)
    until = request.requested_at + timedelta(days=60)
    store.extend_due(request.id, until, "many requests", "ann")
    assert store.get(request.id).due_at == until
    assert store.events(request.id)[-1]["detail"] == f"until {until:%Y-%m-%d}: many requests"
    for refused in (until, request.requested_at, request.requested_at + LATEST_DUE + timedelta(seconds=1)):
        with pytest.raises(BadInputError, match="until: expected a time after the present due date and at most"):
            store.extend_due(request.id, refused, "more", "ann")
    with pytest.raises(BadInputError, match="reason"):
        store.extend_due(request.id, until + timedelta(days=1), " ", "ann")
    store.cancel(request.id, "ann")
    with pytest.raises(StaleRequestError, match="is cancelled"):
        store.extend_due(request.id, until + timedelta(days=1), "more", "ann")


def test_a_due_date_is_warned_of_once_and_its_extension_once_more(store: RequestStore) -> None:
    request = store.submit(NEW)
    assert store.due_before(datetime.now(UTC) + timedelta(days=29)) == []
    assert store.due_before(datetime.now(UTC) + timedelta(days=31)) == [request]
    assert [store.warn_once(request, "due_warning") for _ in range(2)] == [True, False]
    store.extend_due(request.id, request.requested_at + timedelta(days=60), "many requests", "ann")
    assert [store.warn_once(store.get(request.id), "due_warning") for _ in range(2)] == [True, False]


# The history


@pytest.mark.parametrize("statement", ["UPDATE request_events SET actor = 'nobody'", "DELETE FROM request_events"])
def test_what_happened_cannot_be_changed(store: RequestStore, statement: str) -> None:
    request = store.submit(NEW)
    with pytest.raises(DatabaseError, match="request_events only grows"), store._engine.begin() as connection:
        connection.execute(text(statement))
    assert happened(store, request) == [("submitted", "ann")]


# Checks before there is a row


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"idempotency_key": ""}, "idempotency key"),
        ({"idempotency_key": "k" * 201}, "idempotency key"),
        ({"retention": timedelta(0)}, "retention"),
        ({"retention": timedelta(days=40_000)}, "retention"),
    ],
)
def test_what_is_out_of_bounds_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        replace(NEW, **change)  # type: ignore[arg-type]
