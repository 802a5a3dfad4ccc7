"""A code location with a job that does nothing: as many assets as an export's, started by a sensor, partitioned alike.

To ask for it, put a file into the folder ``trivial`` in DAGSTER_HOME; the file's name becomes the partition.
"""

import os
from pathlib import Path

import dagster as dg

from export_pipeline.catalog.load import load_catalog
from export_pipeline.settings import Settings

FOLDER = "trivial"
JOB = "trivial"
PARTITIONS = dg.DynamicPartitionsDefinition(name="trivial")


def folder(home: Path) -> Path:
    """Return where files ask for a run."""
    return home / FOLDER


def _asset(name: str, deps: list[str]) -> dg.AssetsDefinition:
    @dg.asset(name=name, deps=deps, partitions_def=PARTITIONS)
    def nothing() -> None:
        """Do nothing."""

    return nothing


_entries = [f"trivial_{entry.name}" for entry in load_catalog(Settings.load().catalog).entries]
_assets = [
    _asset("trivial_first", []),
    *(_asset(name, ["trivial_first"]) for name in _entries),
    _asset("trivial_last", _entries),
]
_job = dg.define_asset_job(JOB, selection=_assets, executor_def=dg.in_process_executor)


@dg.sensor(job=_job, minimum_interval_seconds=2, default_status=dg.DefaultSensorStatus.RUNNING)
def trivial_requests(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Ask for a run of each file that is there."""
    asked = folder(Path(os.environ["DAGSTER_HOME"]))
    names = sorted(path.name for path in asked.iterdir()) if asked.exists() else []
    known = set(context.instance.get_dynamic_partitions("trivial"))
    new = [name for name in names if name not in known]
    if not new:
        return dg.SkipReason("nothing is asked for")
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=name, partition_key=name) for name in new],
        dynamic_partitions_requests=[PARTITIONS.build_add_request(new)],
    )


defs = dg.Definitions(assets=_assets, jobs=[_job], sensors=[trivial_requests])
