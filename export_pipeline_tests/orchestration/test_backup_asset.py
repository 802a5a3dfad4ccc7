"""Backups under Dagster: the steps of the asset, the sensor that starts them, and what becomes of failures."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from export_pipeline.backups import backup as backup_steps
from export_pipeline.backups.backup import Backups
from export_pipeline.backups.removal import backup_folder
from export_pipeline.backups.verify import verify_backup
from export_pipeline.backups.working import InterruptedWorkError
from export_pipeline.definitions import build_defs
from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.backup_asset import pending_backups
from export_pipeline.orchestration.names import APP, BACKUP_APPS, BATCH_TAG, DAY
from export_pipeline.orchestration.row_work import MORE_TRIES
from export_pipeline.packages.layers import NO_KEYS
from export_pipeline.requests import retries
from export_pipeline.requests.backups import NewBackup
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.settings import Settings


@pytest.fixture
def settings(settings: Settings, demo: DemoData) -> Settings:
    return settings


def launch(
    exporter: Exporter, instance: dg.DagsterInstance, run: dg.RunRequest | None = None, *, app_id: str = ""
) -> dg.ExecuteInProcessResult:
    """Run the job as the sensor asks for it, or as somebody in the UI does, for an app and today."""
    today = datetime.now(UTC).date().isoformat()
    key = (run and run.partition_key) or dg.MultiPartitionKey({APP: app_id, DAY: today})
    if run is None:
        instance.add_dynamic_partitions(str(BACKUP_APPS.name), [app_id])
    job = build_defs(exporter.settings).resolve_job_def("backup_app")
    tags = dict(run.tags) if run else {}
    return job.execute_in_process(instance=instance, partition_key=key, tags=tags, raise_on_error=False)


def tick(exporter: Exporter, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    result: Any = pending_backups(dg.build_sensor_context(instance=instance), exporter=exporter)
    if isinstance(result, dg.SkipReason):
        return []
    for added in result.dynamic_partitions_requests:
        instance.add_dynamic_partitions(added.partitions_def_name, list(added.partition_keys))
    return list(result.run_requests)


@pytest.fixture
def asked(exporter: Exporter, demo: DemoData) -> Request:
    return Backups(exporter).submit(NewBackup(demo.app_ids[0], form={"part_bytes": 1_000_000}))


def test_a_backup_that_was_asked_for_is_made(exporter: Exporter, instance: dg.DagsterInstance, asked: Request) -> None:
    (run,) = tick(exporter, instance)
    assert tick(exporter, instance)[0].run_key == run.run_key, "until the run begins, the same run is asked for"
    result = launch(exporter, instance, run)
    assert result.success
    done = exporter.requests.get(asked.id)
    assert (done.status, done.run_id) == ("completed", result.run_id)
    assert done.documents_done > 1000
    (event,) = result.get_asset_materialization_events()
    assert event.partition == run.partition_key
    assert tick(exporter, instance) == []


def test_an_export_is_none_of_this_sensors_business(
    exporter: Exporter, instance: dg.DagsterInstance, demo: DemoData
) -> None:
    exporter.submit(NewRequest(demo.app_ids[0], [demo.small_uid]))
    assert tick(exporter, instance) == []


def test_a_partition_that_somebody_launches_makes_its_own_row(
    exporter: Exporter, instance: dg.DagsterInstance, demo: DemoData
) -> None:
    result = launch(exporter, instance, app_id=demo.app_ids[0])
    assert result.success
    (row,) = Backups(exporter).requests.completed(demo.app_ids[0])
    assert row.run_id == result.run_id
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[BATCH_TAG] == row.batch_id


def test_two_backups_of_an_app_at_once_are_refused(
    exporter: Exporter, instance: dg.DagsterInstance, asked: Request
) -> None:
    assert not launch(exporter, instance, app_id=asked.app_id).success
    assert exporter.requests.get(asked.id).status == "pending"


def test_a_passing_fault_is_tried_again_within_the_run(
    exporter: Exporter, instance: dg.DagsterInstance, asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the parts, only the one that failed is written again."""
    written: list[int] = []
    write_part: Any = vars(backup_steps)["write_part"]

    complete: Any = Backups.complete
    counted: list[tuple[int, int | None]] = []

    def completing(self: Backups, request: Request, manifest: Any) -> None:
        row = exporter.requests.get(request.id)
        counted.append((row.documents_done, row.documents_total))
        complete(self, request, manifest)

    def failing_once(*arguments: Any) -> Any:
        number = arguments[5].number
        written.append(number)
        if written.count(number) == 1 and number == 1:
            raise InterruptedWorkError("a fault that passes")
        return write_part(*arguments)

    monkeypatch.setattr(Backups, "complete", completing)
    monkeypatch.setattr(backup_steps, "write_part", failing_once)
    monkeypatch.setattr("export_pipeline.orchestration.row_work.SECONDS_BETWEEN_TRIES", 0)
    (run,) = tick(exporter, instance)
    result = launch(exporter, instance, run)
    assert result.success
    assert written.count(1) == 2
    done = exporter.requests.get(asked.id)
    assert done.attempt == 1
    assert counted == [(done.documents_done, done.documents_done)], "each part counts once, whoever writes it"


def test_a_fault_that_stays_fails_the_backup_and_what_is_written_stays_for_the_retry(
    exporter: Exporter, instance: dg.DagsterInstance, asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    with monkeypatch.context() as patched:

        def failing(*arguments: Any) -> Any:
            tries.append(arguments[5].number)
            raise InterruptedWorkError("a fault that stays for a while")

        patched.setattr(backup_steps, "write_part", failing)
        patched.setattr(retries, "FIRST_DELAY", timedelta(0))
        patched.setattr("export_pipeline.orchestration.row_work.SECONDS_BETWEEN_TRIES", 0)
        (run,) = tick(exporter, instance)
        assert not launch(exporter, instance, run).success
    assert tries.count(tries[0]) == 1 + MORE_TRIES
    failed = exporter.requests.get(asked.id)
    assert (failed.status, failed.error_code, failed.retries) == ("pending", "interrupted", 1)
    kept = Backups(exporter).load_plan(failed).read_at
    (again,) = tick(exporter, instance)
    assert again.run_key != run.run_key
    assert launch(exporter, instance, again).success
    done = exporter.requests.get(asked.id)
    assert done.status == "completed"
    manifest = Backups(exporter).sealed(done)
    assert manifest is not None
    assert manifest.moment.read_at == kept, "what was written is of this moment, and was taken up"


def test_a_cancelled_backup_is_not_made(exporter: Exporter, instance: dg.DagsterInstance, asked: Request) -> None:
    (run,) = tick(exporter, instance)
    exporter.cancel(asked.id, "me")
    assert not launch(exporter, instance, run).success
    assert exporter.requests.get(asked.id).status == "cancelled"


def test_what_the_run_sealed_is_whole(exporter: Exporter, instance: dg.DagsterInstance, asked: Request) -> None:
    (run,) = tick(exporter, instance)
    assert launch(exporter, instance, run).success
    done = exporter.requests.get(asked.id)
    manifest = verify_backup(exporter.storage, backup_folder(done), NO_KEYS).manifest
    assert manifest.totals.documents == done.documents_done
    assert len([part for each in manifest.collections for part in each.parts]) > len(manifest.collections)
