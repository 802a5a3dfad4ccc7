"""The Helm values: what the chart makes of them is loaded by Dagster, up to the Kubernetes job that a run becomes."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import PoolGranularity
from dagster_k8s.job import construct_dagster_k8s_job
from dagster_k8s.launcher import K8sRunLauncher

from export_pipeline_tests.deployment.cluster import DEPLOYMENT

if TYPE_CHECKING:
    from export_pipeline_tests.postgres import PostgresServer

pytest_plugins = ("export_pipeline_tests.postgres",)

Values = dict[str, Any]


@pytest.fixture
def values(postgres_server: "PostgresServer") -> Values:
    """The values as they are shipped, but for the address of PostgreSQL."""
    shipped: Values = yaml.safe_load((DEPLOYMENT / "kubernetes.values.yaml").read_text())
    url = urlsplit(postgres_server.new_database())
    here = {"Host": url.hostname, "Username": url.username, "Database": url.path.removeprefix("/")}
    shipped["postgresql"] |= {f"postgresql{name}": value for name, value in here.items()}
    shipped["postgresql"]["service"]["port"] = url.port
    return shipped


def snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def snake_keys(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {snake(name): value for name, value in mapping.items()}


def instance_settings(values: Values) -> dict[str, Any]:
    """Return the dagster.yaml that the chart's templates make of values like ours."""
    release = "export-pipeline-dagster"
    launcher = snake_keys(values["runLauncher"]["config"]["k8sRunLauncher"])
    launcher["run_k8s_config"] = snake_keys(launcher["run_k8s_config"])
    database = values["postgresql"]
    coordinator = values["dagsterDaemon"]["runCoordinator"]
    return {
        "storage": {
            "postgres": {
                "postgres_db": {
                    "username": database["postgresqlUsername"],
                    "password": {"env": "DAGSTER_PG_PASSWORD"},
                    "hostname": database["postgresqlHost"],
                    "db_name": database["postgresqlDatabase"],
                    "port": database["service"]["port"],
                    "params": {},
                    "scheme": database["postgresqlScheme"],
                }
            }
        },
        "run_launcher": {
            "module": "dagster_k8s",
            "class": values["runLauncher"]["type"],
            "config": {
                **launcher,
                "job_namespace": "default",
                "service_account_name": release,
                "dagster_home": "/opt/dagster/dagster_home",
                "instance_config_map": f"{release}-instance",
                "postgres_password_secret": values["global"]["postgresqlSecretName"],
            },
        },
        "run_coordinator": {
            "module": "dagster._core.run_coordinator",
            "class": coordinator["type"],
            "config": snake_keys(coordinator["config"]["queuedRunCoordinator"]),
        },
        "concurrency": {part: snake_keys(values["concurrency"][part]) for part in ("runs", "pools")},
        "telemetry": values["telemetry"],
        **values["additionalInstanceConfig"],
    }


def load(values: Values, home: Path, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    """Open the instance as a pod does, but for the service account, which is the cluster's to give."""
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "")
    (home / "dagster.yaml").write_text(yaml.safe_dump(instance_settings(values)))
    return dg.DagsterInstance.from_config(str(home))


@dg.job
def trivial() -> None:
    pass


def kubernetes_job(launcher: K8sRunLauncher, run: dg.DagsterRun) -> dict[str, Any]:
    """Return the job that the launcher would give to Kubernetes for a run."""
    context = launcher.get_container_context_for_run(run)
    config = context.get_k8s_job_config("image:1", launcher)
    job: Any = construct_dagster_k8s_job(
        config, ["run"], "run", user_defined_k8s_config=context.run_k8s_config, component="run_worker"
    )
    found: dict[str, Any] = job.to_dict()
    return found


def test_a_run_becomes_the_job_that_the_values_ask_for(
    values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(values, tmp_path, monkeypatch) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, K8sRunLauncher)
        job = kubernetes_job(launcher, instance.create_run_for_job(trivial))
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 8
        pools = instance.get_concurrency_config().pool_config
        assert (pools.pool_granularity, pools.default_pool_limit) == (PoolGranularity.RUN, 4)
        assert instance.run_monitoring_enabled
        assert instance.run_retries_max_retries == 1
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["spec"]["backoff_limit"], pod["restart_policy"]) == (0, "Never")
    assert pod["termination_grace_period_seconds"] == 60
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert container["security_context"]["allow_privilege_escalation"] is False
    assert "export-pipeline-postgresql" in str(container["env"])


def test_the_code_location_is_ours_and_has_the_secrets(values: Values) -> None:
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["dagsterApiGrpcArgs"] == ["--python-module", "export_pipeline.definitions"]
    assert deployment["envSecrets"] == [{"name": "export-pipeline"}]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": True}


@pytest.mark.parametrize(
    ("place", "misspelt"),
    [
        ("runLauncher.config.k8sRunLauncher", "resorces"),
        ("runLauncher.config.k8sRunLauncher.runK8sConfig", "podSpec"),
        ("dagsterDaemon.runCoordinator.config.queuedRunCoordinator", "maxRuns"),
        ("concurrency.pools", "limit"),
        ("additionalInstanceConfig.run_monitoring", "timeout"),
    ],
)
def test_a_misspelt_value_is_noticed(
    values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, misspelt: str
) -> None:
    spoilt = copy.deepcopy(values)
    branch = spoilt
    for name in place.split("."):
        branch = branch[name]
    branch[misspelt] = {}

    def load_all() -> None:
        with load(spoilt, tmp_path, monkeypatch) as instance:
            _ = instance.run_launcher, instance.run_coordinator  # what nobody asks for is not loaded

    with pytest.raises(dg.DagsterInvalidConfigError, match=snake(misspelt)):
        load_all()
