"""The sensors: their decisions as pure functions, and a tick on real tables."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCH_TAG, STATUS_TAG
from export_pipeline.orchestration.sensors import (
    GRACE,
    batch_run,
    lost_requests,
    pending_requests,
    request_reconciler,
)
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.store import HERE
from export_pipeline.settings import Settings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def tick(exporter: Exporter, instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance)
    return pending_requests(context, exporter=exporter)  # type: ignore[return-value]


def keep_partitions(result: dg.SensorResult, instance: dg.DagsterInstance) -> None:
    for added in result.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(added.partitions_def_name, list(added.partition_keys))


def test_without_pending_requests_a_tick_skips(exporter: Exporter, instance: dg.DagsterInstance) -> None:
    assert isinstance(tick(exporter, instance), dg.SkipReason)


def test_a_tick_claims_what_is_pending_and_asks_for_one_run_of_one_batch(
    exporter: Exporter, instance: dg.DagsterInstance
) -> None:
    ids = [exporter.submit(NewRequest("app", [uid])).id for uid in ("a", "b", "c")]
    result = tick(exporter, instance)
    assert isinstance(result, dg.SensorResult)
    rows = [exporter.requests.get(request_id) for request_id in ids]
    (batch_id,) = {row.batch_id for row in rows}
    (run,) = result.run_requests or ()
    assert {row.status for row in rows} == {"running"}
    assert run.run_key == f"{batch_id}:1"
    assert run.partition_key == batch_id
    assert run.tags[BATCH_TAG] == batch_id
    assert not {"a", "b", "c"} & set(run.tags.values())
    (added,) = result.dynamic_partitions_requests or ()
    assert list(added.partition_keys) == [batch_id]


def test_a_crash_between_claiming_and_asking_is_made_good_by_the_next_tick(
    exporter: Exporter, instance: dg.DagsterInstance
) -> None:
    exporter.submit(NewRequest("app", ["a"]))
    lost = tick(exporter, instance)
    assert isinstance(lost, dg.SensorResult)
    again = tick(exporter, instance)
    assert isinstance(again, dg.SensorResult)
    assert [run.run_key for run in again.run_requests or ()] == [run.run_key for run in lost.run_requests or ()]


def test_a_batch_whose_run_has_begun_is_not_asked_for_again(exporter: Exporter, instance: dg.DagsterInstance) -> None:
    request_id = exporter.submit(NewRequest("app", ["a"])).id
    tick(exporter, instance)
    exporter.requests.attach_run(str(exporter.requests.get(request_id).batch_id), "run")
    assert isinstance(tick(exporter, instance), dg.SkipReason)


def test_a_partition_is_added_once(exporter: Exporter, instance: dg.DagsterInstance) -> None:
    exporter.submit(NewRequest("app", ["a"]))
    first = tick(exporter, instance)
    assert isinstance(first, dg.SensorResult)
    keep_partitions(first, instance)
    second = tick(exporter, instance)
    assert isinstance(second, dg.SensorResult)
    (added,) = second.dynamic_partitions_requests or ()
    assert list(added.partition_keys) == []


def test_a_request_that_its_submitter_serves_is_none_of_the_sensors_business(
    exporter: Exporter, instance: dg.DagsterInstance
) -> None:
    exporter.submit(NewRequest("app", ["a"]), run_here=True)
    assert isinstance(tick(exporter, instance), dg.SkipReason)


def test_batches_are_no_larger_than_the_setting(settings: Settings, instance: dg.DagsterInstance) -> None:
    with Exporter(settings.model_copy(update={"batch_size": 2})) as exporter:
        for number in range(5):
            exporter.submit(NewRequest("app", [str(number)]))
        result = tick(exporter, instance)
        assert isinstance(result, dg.SensorResult)
        sizes = [len(exporter.requests.of_batch(str(run.partition_key))) for run in result.run_requests or ()]
        assert sizes == [2, 2, 1]


def test_a_retry_gets_a_run_key_of_its_own() -> None:
    assert batch_run("b", 1).run_key != batch_run("b", 2).run_key


@pytest.fixture
def running(exporter: Exporter) -> Request:
    """A request that says it runs."""
    request_id = exporter.submit(NewRequest("app", ["a"])).id
    exporter.requests.claim(Batch(new_id(), (request_id,)))
    return replace(exporter.requests.get(request_id), run_id="r", updated_at=NOW)


@pytest.mark.parametrize(
    ("ended", "lost"),
    [
        ({}, False),
        ({"r": None}, False),
        ({"r": NOW - GRACE / 2}, False),
        ({"r": NOW - GRACE * 2}, True),
        ({"other": NOW - GRACE * 2}, False),
    ],
)
def test_a_request_is_lost_when_its_run_has_been_over_for_a_while(
    running: Request, ended: dict[str, datetime | None], lost: bool
) -> None:
    assert lost_requests([running], ended, NOW, timedelta(minutes=15)) == [running] * lost


@pytest.mark.parametrize(("silent_for", "lost"), [(timedelta(minutes=14), False), (timedelta(minutes=16), True)])
def test_a_request_of_a_command_line_is_lost_when_it_has_been_silent(
    running: Request, silent_for: timedelta, lost: bool
) -> None:
    here = replace(running, run_id=HERE, updated_at=NOW - silent_for)
    assert lost_requests([here], {HERE: None}, NOW, timedelta(minutes=15)) == [here] * lost


def test_the_reconciler_fails_a_request_whose_run_is_gone_and_tells_the_run_that_asked(
    exporter: Exporter, instance: dg.DagsterInstance
) -> None:
    @dg.job
    def asking() -> None:
        pass

    asked_by = instance.create_run_for_job(asking).run_id
    request_id = exporter.submit(NewRequest("app", ["a"], requested_by=f"dagster:{asked_by}")).id
    exporter.requests.claim(batch := Batch(new_id(), (request_id,)))
    exporter.requests.attach_run(batch.id, new_id())  # Dagster has never heard of that run
    request_reconciler(dg.build_sensor_context(instance=instance), exporter=exporter)
    row = exporter.requests.get(request_id)
    assert (row.status, row.error_code) == ("failed", "run_lost")
    asking_run = instance.get_run_by_id(asked_by)
    assert asking_run is not None
    assert asking_run.tags[STATUS_TAG] == "failed"
