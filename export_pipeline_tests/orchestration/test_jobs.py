"""Asking for an export from Dagster, and removing what has expired."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from export_pipeline.definitions import build_defs
from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCH_PARTITIONS, REQUEST_TAG, STATUS_TAG
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline_tests.orchestration.conftest import RunBatch


def ask(instance: dg.DagsterInstance, settings: Settings, **config: Any) -> dg.ExecuteInProcessResult:
    job = build_defs(settings).resolve_job_def("request_export")
    run_config = {"ops": {"submit_request": {"config": config}}} if config else None
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    user_failure = event.step_failure_data.user_failure_data
    assert user_failure is not None
    return str(user_failure.description)


def test_the_forms_example_works_as_it_stands(
    exporter: Exporter, settings: Settings, demo: DemoData, instance: dg.DagsterInstance, run_batch: RunBatch
) -> None:
    result = ask(instance, settings)
    assert result.success
    (row,) = exporter.requests.pending(10)
    assert row.app_id == demo.app_ids[0]
    assert row.selection == {"uids": [demo.small_uid]}
    assert run_batch(row.id).success
    assert exporter.requests.get(row.id).documents_done == 246


def test_the_asking_run_is_told_how_its_request_fares(
    exporter: Exporter, settings: Settings, demo: DemoData, instance: dg.DagsterInstance, run_batch: RunBatch
) -> None:
    asked = ask(instance, settings, app_id=demo.app_ids[0], uids=[demo.small_uid])

    def tags() -> dict[str, str]:
        run = instance.get_run_by_id(asked.run_id)
        assert run is not None
        return dict(run.tags)

    export_id = tags()[REQUEST_TAG]
    assert tags()[STATUS_TAG] == exporter.requests.get(export_id).status == "pending"
    run_batch(export_id)
    assert tags()[STATUS_TAG] == exporter.requests.get(export_id).status == "completed"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"app_id": "app", "uids": ["a"], "format": "doc"}, "format: 'doc' is unknown; known are json, jsonl, parquet"),
        ({"app_id": "app", "uids": ["a"], "json_mode": "odd"}, "json mode: 'odd' is unknown"),
        ({"app_id": "a/../b", "uids": ["a"]}, "app id: expected"),
        ({"app_id": "app"}, "expected at least one uid"),
        ({"app_id": "app", "uids": [""]}, "uids: number 1 must have 1 to 512 characters"),
        ({"app_id": "app", "export_id": "nope"}, "no request has this Export ID"),
        ({"app_id": "app", "export_id": "nope", "uids": ["a"]}, "either uids or an export_id"),
    ],
)
def test_bad_input_fails_the_run_and_makes_no_request(
    exporter: Exporter, settings: Settings, instance: dg.DagsterInstance, config: dict[str, Any], says: str
) -> None:
    result = ask(instance, settings, **config)
    assert not result.success
    assert says in failure_of(result)
    assert exporter.requests.latest() == []


@pytest.mark.parametrize("uids", [[7], "a", [None], [["a"]]])
def test_a_uid_that_is_not_a_string_is_refused_by_the_form(
    settings: Settings, instance: dg.DagsterInstance, uids: Any
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="uids"):
        ask(instance, settings, app_id="app", uids=uids)


def test_a_form_without_uids_exports_nobody(settings: Settings, instance: dg.DagsterInstance) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="app_id"):
        ask(instance, settings, uids=["a"])


def test_an_export_id_tries_a_failed_request_again(
    exporter: Exporter, settings: Settings, instance: dg.DagsterInstance, run_batch: RunBatch
) -> None:
    request_id = exporter.submit(NewRequest("nosuchapp", ["a"])).id
    run_batch(request_id)
    assert exporter.requests.get(request_id).status == "failed"
    assert not ask(instance, settings, app_id="another", export_id=request_id).success
    assert ask(instance, settings, app_id="nosuchapp", export_id=request_id).success
    assert exporter.requests.get(request_id).status == "pending"


def test_what_has_expired_is_removed_with_all_that_dagster_knows_of_it(
    settings: Settings, demo: DemoData, instance: dg.DagsterInstance, run_batch: RunBatch
) -> None:
    at_once = settings.model_copy(update={"retention": timedelta(0)})
    asked = ask(instance, at_once, app_id=demo.app_ids[0], uids=[demo.small_uid])
    with Exporter(at_once) as exporter:
        (pending,) = exporter.requests.pending(1)
        run_batch(pending.id, settings=at_once)
        file = Path(str(exporter.requests.get(pending.id).result_uri))
        assert file.exists()
        job = build_defs(at_once).resolve_job_def("expire_packages")
        assert job.execute_in_process(instance=instance).success
        row = exporter.requests.get(pending.id)
    assert (row.status, row.result_uri) == ("expired", None)
    assert not file.parent.exists()
    assert not instance.has_run(asked.run_id)
    assert instance.get_dynamic_partitions(str(BATCH_PARTITIONS.name)) == []


def test_what_has_not_expired_stays(
    exporter: Exporter, settings: Settings, demo: DemoData, instance: dg.DagsterInstance, run_batch: RunBatch
) -> None:
    request_id = exporter.submit(NewRequest(demo.app_ids[0], [demo.small_uid])).id
    run_batch(request_id)
    build_defs(settings).resolve_job_def("expire_packages").execute_in_process(instance=instance)
    row = exporter.requests.get(request_id)
    assert row.status == "completed"
    assert Path(str(row.result_uri)).exists()
