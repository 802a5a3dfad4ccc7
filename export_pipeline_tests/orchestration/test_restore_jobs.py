"""Restoring and erasing from Dagster: dry runs first, and no uid in what Dagster keeps."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from export_pipeline.backups import restore as restore_steps
from export_pipeline.backups.backup import Backups
from export_pipeline.backups.restore import Restore
from export_pipeline.backups.restore_plan import Wish
from export_pipeline.backups.restore_target import PROGRESS
from export_pipeline.backups.restoring import Restores
from export_pipeline.definitions import build_defs
from export_pipeline.demo.data import DemoData
from export_pipeline.errors import MongoUnreachableError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCH_TAG
from export_pipeline.orchestration.restore_jobs import pending_restores
from export_pipeline.requests import retries
from export_pipeline.requests.backups import NewBackup
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings


@pytest.fixture
def settings(settings: Settings, demo: DemoData) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr("k" * 32)})


def run(job: str, op: str, exporter: Exporter, instance: dg.DagsterInstance, **config: Any) -> Any:
    """Run a job of one op; return its metadata, or the failure's text."""
    return told(launch(job, exporter, instance, {"ops": {op: {"config": config}}}))


def launch(
    job: str, exporter: Exporter, instance: dg.DagsterInstance, config: Any, **tags: str
) -> dg.ExecuteInProcessResult:
    known = build_defs(exporter.settings).resolve_job_def(job)
    return known.execute_in_process(instance=instance, run_config=config, tags=tags, raise_on_error=False)


def told(result: dg.ExecuteInProcessResult) -> Any:
    if not result.success:
        (event,) = result.filter_events(lambda event: event.is_step_failure)
        failure = event.step_failure_data
        assert failure.user_failure_data is not None, failure.error
        return str(failure.user_failure_data.description)
    (event,) = result.filter_events(lambda event: event.event_type_value == "STEP_OUTPUT")
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


@pytest.fixture
def database(mongo_uri: str) -> Iterator[str]:
    name = f"restored_{new_id()[-12:]}"
    yield name
    with MongoClient[Any](mongo_uri) as client:
        for each in client.list_database_names():
            if each.startswith(name):  # a backup of several databases has as many
                client.drop_database(each)


def test_a_restore_is_a_dry_run_unless_told_otherwise(
    exporter: Exporter, instance: dg.DagsterInstance, demo: DemoData, database: str
) -> None:
    backups = Backups(exporter)
    backup = backups.submit(NewBackup(demo.app_ids[0]), run_here=True)
    documents = backups.run(backup).totals.documents
    wish = {"backup": backup.id, "to_database": [database]}
    tried = run("restore_backup", "restore", exporter, instance, **wish)
    assert tried["dry_run"] is True
    assert database not in exporter.client.list_database_names()
    done = run("restore_backup", "restore", exporter, instance, **wish, dry_run=False)
    assert (done["dry_run"], done["documents"]) == (False, documents)
    tables = [record.data for record in done["collections"].records if record.data["kind"] != "view"]
    counted = sum(exporter.client[row["database"]][row["collection"]].count_documents({}) for row in tables)
    assert counted == documents


def test_a_target_that_is_not_empty_is_refused(
    exporter: Exporter, instance: dg.DagsterInstance, demo: DemoData
) -> None:
    backups = Backups(exporter)
    backup = backups.submit(NewBackup(demo.app_ids[0]), run_here=True)
    backups.run(backup)
    wish = {"backup": backup.id, "to_database": [exporter.settings.mongo_database], "dry_run": False}
    assert "target_refused" in run("restore_backup", "restore", exporter, instance, **wish)


def tick(exporter: Exporter, instance: dg.DagsterInstance) -> list[dg.ExecuteInProcessResult]:
    """Let the sensor look, and run what it asks for."""
    asked: Any = pending_restores(exporter=exporter)
    runs = [] if isinstance(asked, dg.SkipReason) else asked
    return [launch("restore_backup", exporter, instance, run.run_config, **run.tags) for run in runs]


def test_a_restore_is_a_row_that_a_lost_runs_successor_takes_up(
    exporter: Exporter, instance: dg.DagsterInstance, demo: DemoData, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups = Backups(exporter)
    backup = backups.submit(NewBackup(demo.app_ids[0]), run_here=True)
    backups.run(backup)
    compare: Any = vars(restore_steps)["compare"]
    compared: list[str] = []

    def interrupted(*arguments: Any) -> None:
        compared.append(arguments[0].collection.name)
        if len(compared) == 4:
            raise KeyboardInterrupt
        compare(*arguments)

    wish = {"backup": backup.id, "to_database": [database], "dry_run": False}
    monkeypatch.setattr(retries, "FIRST_DELAY", timedelta(0))
    with monkeypatch.context() as patched:
        patched.setattr(restore_steps, "compare", interrupted)
        assert not launch("restore_backup", exporter, instance, {"ops": {"restore": {"config": wish}}}).success
    (row,) = [request for request in exporter.requests.latest() if request.kind == "restore"]
    assert (row.status, row.error_code, row.retries) == ("pending", "interrupted", 1)
    (again,) = tick(exporter, instance)
    assert told(again)["documents"] > 0
    done = exporter.requests.get(row.id)
    assert (done.status, done.attempt, done.run_id) == ("completed", 2, again.run_id)
    assert PROGRESS not in exporter.client[database].list_collection_names()
    assert tick(exporter, instance) == []


def test_a_run_that_died_after_the_last_record_leaves_its_successor_only_tidying(
    exporter: Exporter, instance: dg.DagsterInstance, demo: DemoData, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups, restores = Backups(exporter), Restores(exporter)
    backup = backups.submit(NewBackup(demo.app_ids[0]), run_here=True)
    backups.run(backup)
    restores.submit(restores.open(backup.id, Wish([database])), backup.id, "ann")
    with monkeypatch.context() as patched:
        patched.setattr(Restore, "forget", lambda _: None)
        (result,) = tick(exporter, instance)
    assert PROGRESS in exporter.client[database].list_collection_names()
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert launch("restore_backup", exporter, instance, run.run_config, **{BATCH_TAG: run.tags[BATCH_TAG]}).success
    assert PROGRESS not in exporter.client[database].list_collection_names()


def test_a_passing_fault_is_tried_again_within_the_run(
    exporter: Exporter, instance: dg.DagsterInstance, demo: DemoData, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups, restores = Backups(exporter), Restores(exporter)
    backup = backups.submit(NewBackup(demo.app_ids[0]), run_here=True)
    backups.run(backup)
    row = restores.submit(restores.open(backup.id, Wish([database])), backup.id, "ann")
    load_part: Any = vars(restore_steps)["load_part"]
    tries: list[str] = []

    def away_once(*arguments: Any, **named: Any) -> Any:
        tries.append(arguments[2].name)
        if len(tries) == 3:
            raise MongoUnreachableError("away for a moment")
        return load_part(*arguments, **named)

    monkeypatch.setattr(restore_steps, "load_part", away_once)
    monkeypatch.setattr("export_pipeline.orchestration.row_work.SECONDS_BETWEEN_TRIES", 0)
    (result,) = tick(exporter, instance)
    assert result.success
    done = exporter.requests.get(row.id)
    assert (done.status, done.attempt, done.retries) == ("completed", 1, 0)


def test_a_person_is_erased_in_two_steps(exporter: Exporter, instance: dg.DagsterInstance) -> None:
    collection = exporter.client[exporter.settings.mongo_database]["app_usersa"]
    collection.insert_many([{"_id": number, "uid": uid} for number, uid in enumerate(("gone", "gone", "stays"))])
    asked = exporter.submit(NewRequest("a", ["gone"]))
    try:
        counted = run("erase_user", "erase", exporter, instance, export_id=asked.id)
        assert counted["deleted"] is False
        assert collection.count_documents({}) == 3
        refused = run("erase_user", "erase", exporter, instance, export_id=asked.id, confirm=new_id())
        assert isinstance(refused, str)
        assert collection.count_documents({}) == 3
        done = run("erase_user", "erase", exporter, instance, export_id=asked.id, confirm=counted["erasure_id"])
        assert done["deleted"] is True
        assert [document["uid"] for document in collection.find()] == ["stays"]
        assert "gone" not in str(instance.all_logs(instance.get_runs()[0].run_id))
    finally:
        collection.drop()


def test_a_request_that_names_nobody_erases_nobody(exporter: Exporter, instance: dg.DagsterInstance) -> None:
    asked = exporter.submit(NewRequest("a", person={"username": "x"}))
    assert "names no uid" in run("erase_user", "erase", exporter, instance, export_id=asked.id)
