"""The sensor that gives pending requests to runs: a tick on real tables."""

import threading
from time import monotonic

import dagster as dg
import pytest

from export_pipeline.exporter import Exporter
from export_pipeline.orchestration import sensors
from export_pipeline.orchestration.names import BATCH_TAG
from export_pipeline.orchestration.sensors import batch_run, pending_requests
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "PATIENCE_SECONDS", 0.3)


def tick(exporter: Exporter, instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance)
    return pending_requests(context, exporter=exporter)  # type: ignore[return-value]


def keep_partitions(result: dg.SensorResult, instance: dg.DagsterInstance) -> None:
    for added in result.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(added.partitions_def_name, list(added.partition_keys))


def test_without_pending_requests_a_tick_skips(exporter: Exporter, instance: dg.DagsterInstance) -> None:
    assert isinstance(tick(exporter, instance), dg.SkipReason)


def test_a_request_that_comes_during_a_tick_need_not_wait_for_the_next(
    exporter: Exporter, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "PATIENCE_SECONDS", 60.0)
    waiting = threading.Event()
    look = exporter.requests.unstarted_batches

    def noted_look() -> dict[str, int]:
        waiting.set()
        return look()

    monkeypatch.setattr(exporter.requests, "unstarted_batches", noted_look)

    def submit() -> None:
        assert waiting.wait(30)
        exporter.submit(NewRequest("app", ["a"]))

    begun = monotonic()
    other = threading.Thread(target=submit)
    other.start()
    assert isinstance(tick(exporter, instance), dg.SensorResult)
    other.join()
    assert monotonic() - begun < 50, "the tick did not wait its patience out"


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
