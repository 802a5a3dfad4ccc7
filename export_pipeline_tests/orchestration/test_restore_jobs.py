"""Restoring and erasing from Dagster: dry runs first, and no uid in what Dagster keeps."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from export_pipeline.backups.backup import Backups
from export_pipeline.definitions import build_defs
from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.requests.backups import NewBackup
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings


@pytest.fixture
def settings(settings: Settings, demo: DemoData) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr("k" * 32)})


def run(job: str, op: str, exporter: Exporter, instance: dg.DagsterInstance, **config: Any) -> Any:
    """Run a job of one op; return its metadata, or the failure's text."""
    result = (
        build_defs(exporter.settings)
        .resolve_job_def(job)
        .execute_in_process(instance=instance, run_config={"ops": {op: {"config": config}}}, raise_on_error=False)
    )
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
