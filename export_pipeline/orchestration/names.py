"""The names that Dagster keeps and that other programs rely on: asset keys, groups, tags, partitions."""

import dagster as dg

from export_pipeline.catalog.model import Entry

BATCH_PARTITIONS = dg.DynamicPartitionsDefinition(name="batches")
"""One partition per batch; its key is the batch's id, which says nothing about anybody."""

APP, DAY = "app", "day"
BACKUP_APPS = dg.DynamicPartitionsDefinition(name="apps")
BACKUP_PARTITIONS = dg.MultiPartitionsDefinition(
    {APP: BACKUP_APPS, DAY: dg.DailyPartitionsDefinition("2026-01-01", end_offset=1)}
)
"""One partition per app and day, in UTC; today's is there from the morning on."""

BATCHES = dg.AssetKey(["batches"])
PACKAGES = dg.AssetKey(["packages"])
BACKUPS = dg.AssetKey(["backups"])
COMPLETE = "complete"
"""The name of the completeness check of each asset."""

GROUP = "pipeline"

BATCH_TAG = "export_pipeline/batch_id"
REQUEST_TAG = "export_pipeline/export_id"
STATUS_TAG = "export_pipeline/status"


def slice_key(entry: Entry) -> dg.AssetKey:
    """Return the key of an entry's slice."""
    return dg.AssetKey(["slices", entry.plugin, entry.name])
