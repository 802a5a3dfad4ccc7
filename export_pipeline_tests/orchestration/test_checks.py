"""The weekly drift check, as Dagster runs it."""

from pathlib import Path
from typing import Any

import dagster as dg

from export_pipeline.catalog.load import PACKAGED
from export_pipeline.definitions import build_defs
from export_pipeline.demo.data import DemoData
from export_pipeline.settings import Settings


def check(instance: dg.DagsterInstance, settings: Settings) -> dg.AssetCheckEvaluation:
    result = build_defs(settings).resolve_job_def("check_catalog").execute_in_process(instance=instance)
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_the_packaged_catalogue_fits_the_demo(instance: dg.DagsterInstance, demo: DemoData, settings: Settings) -> None:
    evaluation = check(instance, settings)
    assert evaluation.metadata["findings"].value.records == []  # type: ignore[union-attr]
    assert evaluation.passed


def test_what_the_catalogue_forgets_is_a_row_of_the_findings(
    instance: dg.DagsterInstance, demo: DemoData, settings: Settings, tmp_path: Path
) -> None:
    before, _, after = PACKAGED.read_text().partition("  - name: consent_history")
    (tmp_path / "catalog.yaml").write_text(f"{before}  - name:{after.partition('  - name:')[2]}")
    evaluation = check(instance, settings.model_copy(update={"catalog": tmp_path / "catalog.yaml"}))
    rows: list[Any] = evaluation.metadata["findings"].value.records  # type: ignore[union-attr]
    assert not evaluation.passed
    assert {(row.data["kind"], row.data["collection"], row.data["field"]) for row in rows} == {
        ("unclaimed_collection", "consent_history{app_id}", "uid")
    }
    assert "50,000 documents" in str(evaluation.metadata["budget"].value)


def test_the_check_runs_weekly(settings: Settings) -> None:
    (schedule,) = [found for found in build_defs(settings).schedules or () if found.name == "check_catalog_weekly"]
    assert schedule.cron_schedule == "23 4 * * 1"  # type: ignore[union-attr]
