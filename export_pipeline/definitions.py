"""Where everything is put together; what ``workspace.yaml`` loads. Start reading here."""

import dagster as dg

from export_pipeline.catalog.load import load_catalog
from export_pipeline.orchestration.assets import batches, packages_asset, slice_asset
from export_pipeline.orchestration.backup_asset import backup_app, backups, pending_backups
from export_pipeline.orchestration.backup_schedules import backup_schedules
from export_pipeline.orchestration.checks import catalog_drift, check_catalog, check_catalog_weekly
from export_pipeline.orchestration.code_server import mend_code_server
from export_pipeline.orchestration.jobs import export_users, request_export
from export_pipeline.orchestration.notifying import due_notifications
from export_pipeline.orchestration.reconciling import request_reconciler
from export_pipeline.orchestration.resources import resources
from export_pipeline.orchestration.restore_jobs import erase_user, pending_restores, restore_backup
from export_pipeline.orchestration.schedules import (
    expire_packages,
    expire_packages_hourly,
    watch_due_dates,
    watch_due_dates_every_six_hours,
)
from export_pipeline.orchestration.sensors import pending_requests
from export_pipeline.settings import Settings


def build_defs(settings: Settings | None = None) -> dg.Definitions:
    """Return all definitions, made afresh.

    The catalogue decides which assets there are. Tests give ``settings``; otherwise they come from the environment.
    """
    catalog = load_catalog((settings or Settings.load()).catalog)
    return dg.Definitions(
        assets=[batches, *(slice_asset(entry) for entry in catalog.entries), packages_asset(catalog), backups],
        asset_checks=[catalog_drift],
        jobs=[
            *(request_export, export_users, expire_packages, check_catalog, watch_due_dates),
            *(backup_app, restore_backup, erase_user),
        ],
        sensors=[
            *(pending_requests, pending_backups, pending_restores),
            *(request_reconciler, due_notifications, backup_schedules),
        ],
        schedules=[expire_packages_hourly, watch_due_dates_every_six_hours, check_catalog_weekly],
        resources=resources(settings),
    )


mend_code_server()
defs = build_defs()
