"""Any order of changes by several writers, some of them dead without knowing it, keeps the table's promises.

A model in memory says what each change must do; after each, the rows have to be what the model says.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from export_pipeline.errors import BadInputError, StaleRequestError
from export_pipeline.requests.batches import Batch, new_id, plan_batches
from export_pipeline.requests.models import LIVE, NewRequest, Request
from export_pipeline.requests.retries import MOST_RETRIES, PASSING, company_after
from export_pipeline.requests.store import IdempotencyConflictError, RequestStore

pytest_plugins = "export_pipeline_tests.postgres"

UID = "secret-uid"
PASSING_CODES = ["mongo_unreachable", "read_failed", "snapshot_too_old"]
LASTING_CODES = ["incomplete", "unknown_app"]
ACTORS = st.sampled_from(["ann", "bob"])


@dataclass
class Model:
    """What a row has to be."""

    content: int
    status: str = "pending"
    attempt: int = 0
    batch_id: str | None = None
    here: bool = False
    joinable: bool = True
    retries: int = 0
    company: int | None = None
    lease_until: datetime | None = None
    due_at: datetime | None = None
    events: list[str] = field(default_factory=lambda: ["submitted"])
    former_batches: list[str] = field(default_factory=list)


class RequestsTable(RuleBasedStateMachine):
    """Two writers on one table."""

    def __init__(self, first: RequestStore, second: RequestStore) -> None:
        super().__init__()
        self.stores = first, second
        self.app_id = new_id()
        self.models: dict[str, Model] = {}
        self.keys: dict[str, tuple[str, int]] = {}

    # The model

    def some(self, data: st.DataObject, *statuses: str) -> str:
        """One of the requests in these states."""
        return str(data.draw(st.sampled_from([i for i, model in self.models.items() if model.status in statuses])))

    def has(self, *statuses: str) -> bool:
        return any(model.status in statuses for model in self.models.values())

    def company_of(self, batch_id: str | None) -> list[Model]:
        return [model for model in self.models.values() if (model.status, model.batch_id) == ("running", batch_id)]

    def store(self, data: st.DataObject) -> RequestStore:
        return self.stores[data.draw(st.integers(0, 1))]

    def fail_in_model(self, model: Model, code: str, size: int) -> None:
        model.company = company_after(code, model.company, size)
        shared = code in ("run_lost", "snapshot_too_old") and size > 1
        model.lease_until = None
        model.events.append("failed")
        if code in PASSING and not model.here and (shared or model.retries < MOST_RETRIES):
            model.retries += not shared
            model.status = "pending"
            model.events.append("retrying")
        else:
            model.status = "failed"

    # Asking

    def new(self, content: int, actor: str = "ann", key: str | None = None) -> NewRequest:
        return NewRequest(self.app_id, [f"{UID}{content}"], requested_by=actor, idempotency_key=key)

    @rule(data=st.data(), content=st.integers(0, 3), actor=ACTORS, key=st.none() | st.sampled_from("kl"))
    def submit(self, data: st.DataObject, content: int, actor: str, key: str | None) -> None:
        live = [
            request_id
            for request_id, model in self.models.items()
            if model.content == content and model.joinable and model.status in LIVE
        ]
        new = self.new(content, actor, key)
        if key in self.keys and self.keys[key][1] != content:
            with pytest.raises(IdempotencyConflictError):
                self.store(data).submit(new)
            return
        request = self.store(data).submit(new)
        if key in self.keys:
            assert request.id == self.keys[key][0]
        elif live:
            assert [request.id] == live
            self.models[request.id].events.append("joined")
        else:
            assert request.id not in self.models
            self.models[request.id] = Model(content, due_at=request.due_at)
            if key is not None:
                self.keys[key] = (request.id, content)

    @rule(data=st.data(), content=st.integers(0, 3))
    def submit_here(self, data: st.DataObject, content: int) -> None:
        request = self.store(data).submit(self.new(content), run_here=True)
        assert request.id not in self.models
        self.models[request.id] = Model(
            content, "running", 1, request.batch_id, here=True, joinable=False, due_at=request.due_at
        )
        self.models[request.id].events.append("claimed")

    # Working

    @precondition(lambda self: self.has("pending"))
    @rule(size=st.integers(1, 8))
    def two_writers_claim_the_same(self, size: int) -> None:
        pending = [self.stores[0].get(i) for i, model in self.models.items() if model.status == "pending"]
        plans = [plan_batches(pending, size) for _ in self.stores]
        taken: list[str] = []
        for batches in zip(*plans, strict=True):
            for store, batch in zip(self.stores, batches, strict=True):
                claimed = store.claim(batch)
                taken += claimed
                for request_id in claimed:
                    self.claimed_in_model(request_id, batch)
        assert sorted(taken) == sorted(request.id for request in pending)

    def claimed_in_model(self, request_id: str, batch: Batch) -> None:
        model = self.models[request_id]
        if model.batch_id is not None:
            model.former_batches.append(model.batch_id)
        model.status, model.batch_id, model.here = "running", batch.id, False
        model.attempt += 1
        model.events.append("claimed")

    @precondition(lambda self: self.has("running"))
    @rule(data=st.data(), documents=st.integers(0, 9))
    def progress(self, data: st.DataObject, documents: int) -> None:
        request_id = self.some(data, "running")
        batch_id = str(self.models[request_id].batch_id)
        self.store(data).progress(request_id, batch_id, documents_done=documents, bytes_written=documents)
        self.store(data).batch_progress(batch_id, {"phase": "reading"})

    @precondition(lambda self: self.has("running"))
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        request_id = self.some(data, "running")
        model = self.models[request_id]
        complete(self.store(data), request_id, str(model.batch_id))
        model.status, model.lease_until = "completed", None
        model.events.append("completed")

    @precondition(lambda self: self.has("running"))
    @rule(data=st.data(), code=st.sampled_from(PASSING_CODES + LASTING_CODES))
    def fail(self, data: st.DataObject, code: str) -> None:
        request_id = self.some(data, "running")
        model = self.models[request_id]
        size = len(self.company_of(model.batch_id))
        self.store(data).fail(request_id, str(model.batch_id), code=code, message="a reason")
        self.fail_in_model(model, code, size)

    @precondition(lambda self: self.has("running"))
    @rule(data=st.data(), code=st.sampled_from(PASSING_CODES + LASTING_CODES))
    def fail_the_batch(self, data: st.DataObject, code: str) -> None:
        batch_id = self.models[self.some(data, "running")].batch_id
        failing = self.company_of(batch_id)
        self.store(data).fail_batch(str(batch_id), code=code, message="a reason")
        for model in failing:
            self.fail_in_model(model, code, len(failing))

    @precondition(lambda self: self.has("running"))
    @rule(data=st.data(), minutes=st.integers(-600, 600))
    def renew(self, data: st.DataObject, minutes: int) -> None:
        batch_id = self.models[self.some(data, "running")].batch_id
        until = datetime.now(UTC) + timedelta(minutes=minutes)  # whatever the clock says
        assert self.store(data).renew_lease(str(batch_id), until) == len(self.company_of(batch_id))
        for model in self.company_of(batch_id):
            model.lease_until = until

    @precondition(lambda self: self.has("running"))
    @rule(data=st.data())
    def give_up_a_dead_worker(self, data: st.DataObject) -> None:
        model = self.models[self.some(data, "running")]
        failing = self.company_of(model.batch_id)
        self.store(data).give_up(str(model.batch_id), model.lease_until, message="a reason")
        for lost in failing:
            self.fail_in_model(lost, "run_lost", len(failing))

    @precondition(lambda self: self.has("running"))
    @rule(data=st.data())
    def a_worker_that_has_renewed_its_lease_is_not_given_up(self, data: st.DataObject) -> None:
        model = self.models[self.some(data, "running")]
        seen = datetime(2026, 1, 1, tzinfo=UTC)
        assert self.store(data).give_up(str(model.batch_id), seen, message="a reason") == []

    @precondition(lambda self: any(model.former_batches for model in self.models.values()))
    @rule(data=st.data())
    def a_dead_worker_writes(self, data: st.DataObject) -> None:
        stale = [(i, batch) for i, model in self.models.items() for batch in model.former_batches]
        request_id, batch_id = data.draw(st.sampled_from(stale))
        store = self.store(data)
        before = store.get(request_id)
        with pytest.raises(StaleRequestError):
            store.progress(request_id, batch_id, documents_done=9, bytes_written=9)
        with pytest.raises(StaleRequestError):
            complete(store, request_id, batch_id)
        with pytest.raises(StaleRequestError):
            store.fail(request_id, batch_id, code="x", message="x")
        store.set_totals(batch_id, {request_id: 99})
        assert store.get(request_id) == before

    # The rest of a request's life

    @precondition(lambda self: bool(self.models))
    @rule(data=st.data(), actor=ACTORS)
    def cancel(self, data: st.DataObject, actor: str) -> None:
        request_id = data.draw(st.sampled_from(list(self.models)))
        model = self.models[request_id]
        if model.status not in LIVE:
            with pytest.raises(StaleRequestError):
                self.store(data).cancel(request_id, actor)
            return
        self.store(data).cancel(request_id, actor)
        if model.batch_id is not None:
            model.former_batches.append(model.batch_id)
        model.status, model.lease_until = "cancelled", None
        model.events.append("cancelled")

    @precondition(lambda self: bool(self.models))
    @rule(data=st.data(), actor=ACTORS)
    def retry(self, data: st.DataObject, actor: str) -> None:
        request_id = data.draw(st.sampled_from(list(self.models)))
        model = self.models[request_id]
        equal = any(
            other.content == model.content and other.joinable and other.status in LIVE for other in self.models.values()
        )
        if model.status != "failed":
            with pytest.raises(StaleRequestError):
                self.store(data).retry(request_id, actor)
        elif model.joinable and equal:
            with pytest.raises(BadInputError, match="pending or running"):
                self.store(data).retry(request_id, actor)
        else:
            self.store(data).retry(request_id, actor)
            model.status, model.retries = "pending", 0
            model.events.append("retried")

    @precondition(lambda self: self.has("completed", "expired", "cancelled"))
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        request_id = self.some(data, "completed", "expired", "cancelled")
        model = self.models[request_id]
        if model.status != "completed":
            with pytest.raises(StaleRequestError):
                self.store(data).expire(request_id)
            return
        self.store(data).expire(request_id)
        model.status = "expired"
        model.events.append("expired")

    @precondition(lambda self: self.has(*LIVE))
    @rule(data=st.data(), days=st.integers(1, 100))
    def extend(self, data: st.DataObject, days: int) -> None:
        request_id = self.some(data, *LIVE)
        model = self.models[request_id]
        until = self.stores[0].get(request_id).requested_at + timedelta(days=days)
        if model.due_at is not None and model.due_at < until and days <= 90:
            self.store(data).extend_due(request_id, until, "much to do", "ann")
            model.due_at = until
            model.events.append("due_extended")
        else:
            with pytest.raises(BadInputError, match="until"):
                self.store(data).extend_due(request_id, until, "much to do", "ann")

    # The promises

    @invariant()
    def the_rows_are_what_the_model_says(self) -> None:
        rows = {row.id: row for row in self.stores[0].of_app(self.app_id)}
        assert rows.keys() == self.models.keys()
        for request_id, model in self.models.items():
            assert seen(rows[request_id]) == expected(model)

    @invariant()
    def what_runs_is_what_is_said_to_run(self) -> None:
        running = {row.id for row in self.stores[0].running() if row.app_id == self.app_id}
        assert running == {i for i, model in self.models.items() if model.status == "running"}

    def teardown(self) -> None:
        for request_id, model in self.models.items():
            events = self.stores[1].events(request_id)
            assert [event["event"] for event in events] == model.events
            assert model.events.count("completed") <= 1
            assert UID not in repr(events)
        for request_id, model in self.models.items():  # none is left for the next example to claim
            if model.status in LIVE:
                self.stores[0].cancel(request_id, "the end")


def seen(row: Request) -> tuple[Any, ...]:
    assert (row.finished_at is None) == (row.status in LIVE)
    assert (row.expires_at is None) == (row.status not in ("completed", "expired"))
    return row.status, row.attempt, row.batch_id, row.retries, row.company, row.lease_until, row.due_at


def expected(model: Model) -> tuple[Any, ...]:
    return model.status, model.attempt, model.batch_id, model.retries, model.company, model.lease_until, model.due_at


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


def test_any_order_of_changes_by_several_writers_keeps_the_promises(url: str) -> None:
    stores = RequestStore.open(url), RequestStore.open(url)

    class OnThisDatabase(RequestsTable):
        def __init__(self) -> None:
            super().__init__(*stores)

    run_state_machine_as_test(OnThisDatabase, settings=settings(max_examples=30, stateful_step_count=40, deadline=None))
    for store in stores:
        store.close()
