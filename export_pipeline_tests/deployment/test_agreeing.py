"""The three ways to deploy, on one machine, with Celery and on Kubernetes, agree in what a request's fate hangs on."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import PoolGranularity

from export_pipeline_tests.deployment.cluster import DEPLOYMENT
from export_pipeline_tests.deployment.test_kubernetes import instance_settings

ON_ONE_MACHINE = DEPLOYMENT.parents[1] / "dagster.yaml"


def loaded(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


DEPLOYMENTS = {
    "one machine": loaded(ON_ONE_MACHINE),
    "celery": loaded(DEPLOYMENT / "celery.dagster.yaml"),
    "kubernetes": instance_settings(loaded(DEPLOYMENT / "kubernetes.values.yaml")),
}


@pytest.mark.parametrize(
    "setting",
    [
        "concurrency.pools",
        "run_coordinator.class",
        "run_coordinator.config.dequeue_interval_seconds",
        "run_monitoring.enabled",
        "run_monitoring.max_runtime_seconds",
        "run_monitoring.free_slots_after_run_end_seconds",  # or a dead run's place in the pool stays taken
        "run_retries",
        "telemetry.enabled",
    ],
)
def test_they_agree(setting: str) -> None:
    found = {}
    for name, value in DEPLOYMENTS.items():
        for part in setting.split("."):
            value = value[part]
        found[name] = value
    assert found == dict.fromkeys(DEPLOYMENTS, found["one machine"])


def test_dagster_caps_the_runs_that_read_as_the_file_says(tmp_path: Path) -> None:
    shutil.copyfile(ON_ONE_MACHINE, tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        pools = instance.get_concurrency_config().pool_config
    assert (pools.pool_granularity, pools.default_pool_limit) == (PoolGranularity.RUN, 4)
