"""The jobs that run by themselves: sweeping, pruning, and watching due dates."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from export_pipeline.definitions import build_defs
from export_pipeline.demo.data import DemoData
from export_pipeline.errors import StorageError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCH_PARTITIONS
from export_pipeline.packages import removal
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline.storage import DirectoryStorage
from export_pipeline_tests.orchestration.conftest import RunBatch


def run(job: str, settings: Settings, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return build_defs(settings).resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult, op: str) -> dict[str, Any]:
    (output,) = [event for event in result.events_for_node(op) if event.is_successful_output]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert event.step_failure_data.user_failure_data is not None
    return str(event.step_failure_data.user_failure_data.description)


# Expiry


def test_a_package_that_cannot_be_removed_does_not_hold_up_the_others_and_fails_the_run(
    settings: Settings,
    demo: DemoData,
    instance: dg.DagsterInstance,
    run_batch: RunBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once = settings.model_copy(update={"retention": timedelta(0)})
    with Exporter(at_once) as exporter:
        ids = [exporter.submit(NewRequest(demo.app_ids[0], [uid])).id for uid in (demo.small_uid, demo.empty_uid)]
        run_batch(*ids, settings=at_once)
        delete = DirectoryStorage.delete

        def not_the_first(storage: DirectoryStorage, prefix: str) -> None:
            if ids[0] in prefix:
                raise StorageError("the file is held")
            delete(storage, prefix)

        with monkeypatch.context() as held:
            held.setattr(DirectoryStorage, "delete", not_the_first)
            result = run("expire_packages", at_once, instance)
        assert failure(result) == f"1 expired packages could not be removed: {ids[0]}; see the log"
        assert [exporter.requests.get(request_id).status for request_id in ids] == ["completed", "expired"]
        assert run("expire_packages", at_once, instance).success
        assert exporter.requests.get(ids[0]).status == "expired"


def test_a_request_may_say_how_long_its_package_is_kept(
    exporter: Exporter, demo: DemoData, run_batch: RunBatch
) -> None:
    request = exporter.submit(NewRequest(demo.app_ids[0], [demo.small_uid], retention=timedelta(hours=1)))
    run_batch(request.id)
    row = exporter.requests.get(request.id)
    assert row.expires_at is not None
    assert timedelta(minutes=59) < row.expires_at - datetime.now(UTC) <= timedelta(hours=1)


# Sweeping


@pytest.fixture
def an_hour_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is too young to be swept."""
    monkeypatch.setattr(removal, "LEFT_ALONE_FOR", timedelta(seconds=-1))
    monkeypatch.setattr(removal, "WRITING_TAKES_AT_MOST", timedelta(seconds=-1))


def leave(exporter: Exporter, key: str) -> Path:
    with exporter.storage.create(key) as file:
        file.write(b"personal data")
        file.commit()
    return Path(exporter.storage.locate(key))


@pytest.mark.usefixtures("an_hour_has_passed")
def test_what_crashes_left_is_swept_and_what_is_in_use_stays(
    exporter: Exporter, settings: Settings, instance: dg.DagsterInstance
) -> None:
    live, cancelled = (exporter.submit(NewRequest("app", [uid])) for uid in ("a", "b"))
    exporter.requests.claim(batch := Batch(new_id(), (live.id,)))
    exporter.cancel(cancelled.id, "me")
    stale_batch = new_id()
    in_use = [leave(exporter, f"slices/{batch.id}/plan.json"), leave(exporter, f"exports/app/{live.id}/export.json")]
    unknown = leave(exporter, "exports/app/not-ours/export.json")
    leftovers = [
        leave(exporter, f"slices/{stale_batch}/plan.json"),
        leave(exporter, f"exports/app/{cancelled.id}/export.json"),
    ]
    half_written = in_use[1].with_name(".export.json.0123abcd.partial")
    half_written.touch()
    instance.add_dynamic_partitions(str(BATCH_PARTITIONS.name), [batch.id, stale_batch])
    result = run("expire_packages", settings, instance)
    assert result.success
    assert [path.exists() for path in (*leftovers, half_written)] == [False] * 3
    assert [path.exists() for path in (*in_use, unknown)] == [True] * 3
    assert instance.get_dynamic_partitions(str(BATCH_PARTITIONS.name)) == [batch.id]
    expected = {"slices": 1, "packages": 1, "backups": 0, "files": 1, "secrets": 0, "partitions": 1, "problems": 0}
    assert metadata(result, "remove_leftovers") == expected


def test_what_is_young_is_left_alone(exporter: Exporter, settings: Settings, instance: dg.DagsterInstance) -> None:
    young = leave(exporter, f"slices/{new_id()}/plan.json")
    assert run("expire_packages", settings, instance).success
    assert young.exists()


# Pruning


def test_old_finished_runs_are_deleted_and_others_stay(settings: Settings, instance: dg.DagsterInstance) -> None:
    @dg.job(name="export_users")
    def ours() -> None:
        pass

    @dg.job
    def somebody_elses() -> None:
        pass

    finished = instance.create_run_for_job(ours, status=dg.DagsterRunStatus.SUCCESS).run_id
    at_work = instance.create_run_for_job(ours, status=dg.DagsterRunStatus.STARTED).run_id
    foreign = instance.create_run_for_job(somebody_elses, status=dg.DagsterRunStatus.SUCCESS).run_id
    assert run("expire_packages", settings, instance).success
    assert instance.has_run(finished), "it is young"
    run("expire_packages", settings.model_copy(update={"run_retention": timedelta(microseconds=1)}), instance)
    assert [instance.has_run(run_id) for run_id in (finished, at_work, foreign)] == [False, True, True]


# Due dates


def test_due_dates_are_warned_of_and_an_overdue_one_fails_the_run(
    exporter: Exporter, settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export_pipeline.requests.submitting.DUE_AFTER", timedelta(days=5))
    soon = exporter.submit(NewRequest("app", ["a"]))
    for _ in range(2):
        result = run("watch_due_dates", settings, instance)
        assert result.success
    assert metadata(result, "check_due_dates") == {"due_soon": 1, "overdue": 0}
    assert [event["event"] for event in exporter.requests.events(soon.id)] == ["submitted", "due_warning"]
    monkeypatch.setattr("export_pipeline.requests.submitting.DUE_AFTER", timedelta(days=-1))
    late = exporter.submit(NewRequest("app", ["b"]))
    for _ in range(2):
        failed = run("watch_due_dates", settings, instance)
        assert failure(failed) == f"1 requests are past their due date: {late.id}; see 'export-pipeline status'"
    assert [event["event"] for event in exporter.requests.events(late.id)] == ["submitted", "overdue"]
    exporter.cancel(late.id, "me")
    assert run("watch_due_dates", settings, instance).success
