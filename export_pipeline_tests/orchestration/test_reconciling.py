"""The sensor that puts right what a crash left: its decisions as pure functions, and ticks on real tables."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration import reconciling
from export_pipeline.orchestration.names import BATCH_TAG, STATUS_TAG
from export_pipeline.orchestration.reconciling import Runs, marks_of, request_reconciler
from export_pipeline.requests.batched import BatchedWork
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.leases import SILENCE
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.store import HERE

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
STARTED, STARTING, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.FAILURE


@dg.job(name="export_users")
def serving() -> None:
    """Stands in for the job that serves batches."""


class Ticks:
    """Lets the sensor tick, and time pass."""

    def __init__(self, exporter: Exporter, instance: dg.DagsterInstance) -> None:
        self.now = 0.0
        self.cursor: str | None = None
        self._exporter = exporter
        self._instance = instance

    def __call__(self) -> None:
        context = dg.build_sensor_context(instance=self._instance, cursor=self.cursor)
        result: Any = request_reconciler(context, exporter=self._exporter)
        self.cursor = result.cursor
        self.now += 30

    def for_a_while(self) -> None:
        for _ in range(int(SILENCE // 30) + 1):
            self()


@pytest.fixture
def tick(exporter: Exporter, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Ticks:
    """Ticks half a minute apart, seen by a sensor that has seen nothing before."""
    ticks = Ticks(exporter, instance)
    monkeypatch.setattr(reconciling, "monotonic", lambda: ticks.now)
    return ticks


def claimed(exporter: Exporter, *, requested_by: str = "me") -> Request:
    request_id = exporter.submit(NewRequest("app", [new_id()], requested_by=requested_by)).id
    exporter.requests.claim(Batch(new_id(), (request_id,)))
    return exporter.requests.get(request_id)


def run_of(request: Request, instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> str:
    tags = {BATCH_TAG: str(request.batch_id)}
    return instance.create_run_for_job(serving, status=status, tags=tags).run_id


def noting_what_is_ended(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which the ids of the runs that the sensor ends are added."""
    ended: list[str] = []

    def cancel_run(_: object, run_id: str) -> bool:
        ended.append(run_id)
        return True

    monkeypatch.setattr(type(instance.run_coordinator), "cancel_run", cancel_run)
    return ended


# Whose signs of life are looked at


@pytest.mark.parametrize(
    ("run_id", "runs", "watched"),
    [
        (HERE, Runs(), True),
        ("r", Runs(), True),
        ("r", Runs(at_work={"b": ["r"]}), True),
        ("r", Runs(waiting={"b": ["r2"]}), False),
        (None, Runs(), False),
        (None, Runs(waiting={"b": ["r"]}), False),
        (None, Runs(at_work={"b": ["r"]}), True),
        (None, Runs(over=frozenset({"b"})), True),
    ],
)
def test_what_has_not_begun_yet_is_not_looked_at(
    exporter: Exporter, run_id: str | None, runs: Runs, watched: bool
) -> None:
    request = replace(claimed(exporter), batch_id="b", run_id=run_id)
    assert set(marks_of([request], runs)) == ({"b"} if watched else set())


def test_a_renewed_lease_and_another_run_are_signs_of_life(exporter: Exporter) -> None:
    request = replace(claimed(exporter), batch_id="b", run_id="r", lease_until=NOW)
    mark = marks_of([request], Runs())
    assert mark == marks_of([request], Runs())
    assert mark != marks_of([replace(request, lease_until=NOW + timedelta(seconds=10))], Runs())
    assert mark != marks_of([request], Runs(at_work={"b": ["r2"]}))


# Ticks


def test_a_request_whose_run_is_gone_is_tried_again_and_the_run_that_asked_is_told(
    exporter: Exporter, instance: dg.DagsterInstance, tick: Ticks
) -> None:
    asked_by = instance.create_run_for_job(serving).run_id
    request = claimed(exporter, requested_by=f"dagster:{asked_by}")
    exporter.requests.attach_run(str(request.batch_id), new_id())  # Dagster has never heard of that run
    tick()
    assert exporter.requests.get(request.id).status == "running", "it may just be slow"
    tick.for_a_while()
    row = exporter.requests.get(request.id)
    assert (row.status, row.error_code, row.retries) == ("pending", "run_lost", 1)
    asking_run = instance.get_run_by_id(asked_by)
    assert asking_run is not None
    assert asking_run.tags[STATUS_TAG] == "pending"


def test_a_run_that_says_it_works_and_shows_no_sign_of_life_is_given_up_and_then_ended(
    exporter: Exporter, instance: dg.DagsterInstance, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = noting_what_is_ended(instance, monkeypatch)
    request = claimed(exporter)
    run_id = run_of(request, instance, STARTED)
    exporter.requests.attach_run(str(request.batch_id), run_id)
    tick.for_a_while()
    assert exporter.requests.get(request.id).status == "pending"
    assert ended == []
    exporter.requests.claim(Batch(new_id(), (request.id,)))
    tick()
    assert ended == [run_id]


def test_a_run_that_renews_its_lease_is_left_alone(
    exporter: Exporter, instance: dg.DagsterInstance, tick: Ticks
) -> None:
    request = claimed(exporter)
    exporter.requests.attach_run(str(request.batch_id), run_of(request, instance, STARTED))
    for beat in range(10):
        exporter.requests.renew_lease(str(request.batch_id), NOW + timedelta(seconds=beat))
        tick()
    assert exporter.requests.get(request.id).status == "running"


def test_a_run_that_has_not_begun_is_left_alone(exporter: Exporter, instance: dg.DagsterInstance, tick: Ticks) -> None:
    request = claimed(exporter)
    run_of(request, instance, STARTING)
    for _ in range(10):
        tick()
    assert exporter.requests.get(request.id).status == "running"


def test_a_run_that_died_before_it_began_is_tried_again(
    exporter: Exporter, instance: dg.DagsterInstance, tick: Ticks
) -> None:
    request = claimed(exporter)
    run_of(request, instance, FAILURE)
    tick.for_a_while()
    assert exporter.requests.get(request.id).status == "pending"


def test_a_command_line_that_died_fails_its_request(exporter: Exporter, tick: Ticks) -> None:
    request = exporter.submit(NewRequest("app", ["a"]), run_here=True)
    tick.for_a_while()
    row = exporter.requests.get(request.id)
    assert (row.status, row.error_code) == ("failed", "run_lost")


def test_the_run_of_a_cancelled_request_is_ended(
    exporter: Exporter, instance: dg.DagsterInstance, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = noting_what_is_ended(instance, monkeypatch)
    kept, cancelled = claimed(exporter), claimed(exporter)
    runs = [run_of(request, instance, STARTING) for request in (kept, cancelled)]
    exporter.cancel(cancelled.id, "me")
    tick()
    assert ended == runs[1:]


def test_a_run_that_was_told_to_end_is_not_told_again(
    exporter: Exporter, instance: dg.DagsterInstance, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster counts the time that a dead one has to end from the last time that it was told to."""
    ended = noting_what_is_ended(instance, monkeypatch)
    request = claimed(exporter)
    run_of(request, instance, dg.DagsterRunStatus.CANCELING)
    exporter.cancel(request.id, "me")
    tick.for_a_while()
    assert ended == []


def test_a_run_whose_process_died_after_its_last_request_was_completed_is_ended(
    exporter: Exporter, instance: dg.DagsterInstance, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = noting_what_is_ended(instance, monkeypatch)
    request = claimed(exporter)
    run_id = run_of(request, instance, STARTED)
    package = {"documents": 0, "result_uri": "x", "result_bytes": 0, "result_sha256": "", "expires_at": None}
    exporter.requests.complete(request.id, str(request.batch_id), **package)  # type: ignore[arg-type]
    tick()
    assert ended == [], "it is about to end by itself"
    tick.for_a_while()
    assert set(ended) == {run_id}


def test_a_package_that_was_published_before_the_run_died_is_taken_up_by_the_retry(
    exporter: Exporter, demo: DemoData, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    request = exporter.submit(NewRequest(demo.app_ids[0], [demo.small_uid]))
    exporter.requests.claim(batch := Batch(new_id(), (request.id,)))
    exporter.requests.attach_run(batch.id, new_id())
    plan = exporter.plan(batch.id)
    for entry in exporter.catalog.entries:
        exporter.read_slice(plan, entry.name)
    with monkeypatch.context() as killed:
        killed.setattr(BatchedWork, "complete", die)
        killed.setattr(exporter.requests, "fail_batch", lambda *_, **__: [])  # it does not live to say so
        with pytest.raises(KeyboardInterrupt):
            list(exporter.package(plan))
    tick.for_a_while()
    assert exporter.requests.get(request.id).status == "pending"
    published = list(Path(exporter.settings.storage_root).rglob("export.json"))
    assert len(published) == 1
    made_at = published[0].stat().st_mtime_ns
    exporter.requests.claim(again := Batch(new_id(), (request.id,)))
    plan = exporter.plan(again.id)
    (outcome,) = exporter.package(plan)
    assert outcome.error is None
    assert exporter.requests.get(request.id).status == "completed"
    assert published[0].stat().st_mtime_ns == made_at
