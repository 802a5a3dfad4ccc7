"""Checks that stand beside the assets: whether the catalogue still describes the database."""

import dagster as dg

from export_pipeline.catalog.drift.check import DriftReport
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCHES
from export_pipeline.orchestration.resources import lasting_failures


@dg.asset_check(
    asset=BATCHES,
    name="catalog_drift",
    description="Samples the database, within a budget, for collections that hold known uids and that no entry of the "
    "catalogue claims, for entries that match nothing, and for fields seen for the first time.",
)
def catalog_drift(exporter: dg.ResourceParam[Exporter]) -> dg.AssetCheckResult:
    """Compare the catalogue with the database."""
    with lasting_failures():
        report = exporter.check_catalog()
    return dg.AssetCheckResult(
        passed=not report.findings and report.complete,
        # What is missing from the catalogue is missing from every export, but it stops none.
        severity=dg.AssetCheckSeverity.WARN,
        metadata=_metadata(report),
    )


def _metadata(report: DriftReport) -> dict[str, dg.MetadataValue]:
    columns = ("kind", "app_id", "database", "collection", "field", "detail")
    return {
        "findings": dg.MetadataValue.table(
            records=[
                dg.TableRecord({column: getattr(finding, column) or "" for column in columns})
                for finding in report.findings
            ],
            schema=dg.TableSchema(columns=[dg.TableColumn(column, "string") for column in columns]),
        ),
        "apps": dg.MetadataValue.int(report.apps),
        "collections_looked_at": dg.MetadataValue.int(report.collections),
        "collections_skipped": dg.MetadataValue.int(report.skipped),
        "documents_sampled": dg.MetadataValue.int(report.documents),
        "seconds": dg.MetadataValue.float(report.seconds),
        "budget": dg.MetadataValue.text(f"{report.budget.seconds:g} s, {report.budget.documents:,} documents"),
    }


check_catalog = dg.define_asset_job(
    "check_catalog",
    selection=dg.AssetSelection.checks(catalog_drift),
    executor_def=dg.in_process_executor,
    description="Compare the catalogue with the database.",
)

check_catalog_weekly = dg.ScheduleDefinition(
    name="check_catalog_weekly",
    job=check_catalog,
    cron_schedule="23 4 * * 1",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
