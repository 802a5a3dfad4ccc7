"""The deployment with Celery: its dagster.yaml loads, and a whole one does its work, also while a worker dies."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.models import FINISHED, NewRequest, Request
from export_pipeline_tests.deployment.cluster import (
    DEPLOYMENT,
    WORKER_APP,
    Cluster,
    running_cluster,
    wait_until,
)

if TYPE_CHECKING:
    from export_pipeline_tests.postgres import PostgresServer

pytest_plugins = ("export_pipeline_tests.postgres",)

WORKERS = ("one", "two")
FORMATS = ("json", "jsonl", "parquet", "csv", "html", "bson")
EXPORT_SECONDS = 90
RECOVERY_SECONDS = 480
"""A dead worker is missed after one to two minutes without a sign of life; then its requests wait a little more."""


def test_the_instance_settings_load(
    postgres_server: "PostgresServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster_celery.launcher import CeleryRunLauncher
    from dagster_postgres import DagsterPostgresStorage

    shutil.copyfile(DEPLOYMENT / "celery.dagster.yaml", tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_server.new_database().replace("+psycopg:", "+psycopg2:"))
    monkeypatch.setenv("DAGSTER_CELERY_BROKER_URL", "redis://broker.example/0")
    monkeypatch.setenv("DAGSTER_CELERY_BACKEND_URL", "redis://broker.example/1")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, CeleryRunLauncher)
        assert isinstance(instance.get_ref().storage, DagsterPostgresStorage)
        assert instance.get_runs_count() == 0
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 2
        celery = launcher.celery.conf
        assert (celery.broker_url, celery.result_backend) == ("redis://broker.example/0", "redis://broker.example/1")
        assert celery.worker_disable_prefetch is True
        # A run that Redis would deliver a second time is over by then, or has been given up.
        longest = instance.run_monitoring_start_timeout_seconds + instance.run_monitoring_max_runtime_seconds
        assert celery.broker_transport_options["visibility_timeout"] > longest


def test_a_worker_says_when_no_run_would_reach_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "celery", "-A", WORKER_APP, "worker"]
    environment = {"DAGSTER_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "copy export_pipeline/deployment/celery.dagster.yaml there" in done.stderr


@pytest.fixture(scope="module")
def cluster(mongo_uri: str, demo: DemoData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), mongo_uri=mongo_uri, batch_size=3) as cluster:
        cluster.start_daemon()
        for name in WORKERS:
            cluster.start_worker(name)
        yield cluster


@pytest.fixture
def exporter(cluster: Cluster) -> Iterator[Exporter]:
    with Exporter(cluster.settings) as exporter:
        yield exporter


def wait_for_all(cluster: Cluster, exporter: Exporter, requests: Sequence[Request], seconds: float) -> list[Request]:
    """Wait until all requests have ended; return them as they are then."""

    def ended() -> bool:
        time.sleep(0.3)
        return all(exporter.requests.get(request.id).status in FINISHED for request in requests)

    try:
        wait_until(ended, seconds, "making the exports")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{what_was_seen(cluster, exporter, requests)}") from None
    return [exporter.requests.get(request.id) for request in requests]


def what_was_seen(cluster: Cluster, exporter: Exporter, requests: Sequence[Request]) -> str:
    """Return the requests with their histories, the runs, and how each process's log ends."""
    lines = []
    for request in requests:
        lines.append(str(exporter.requests.get(request.id)))
        lines += [
            f"  {event['at']} {event['event']} {event['detail']}" for event in exporter.requests.events(request.id)
        ]
    with dg.DagsterInstance.from_config(str(cluster.settings.home)) as instance:
        lines += [f"run {run.run_id} {run.status} {dict(run.tags)}" for run in instance.get_runs()]
    for name in ("daemon", *WORKERS):
        lines += [f"== {name}", *cluster.log(name).splitlines()[-40:]]
    return "\n".join(lines)


def check_files(exporter: Exporter, requests: Sequence[Request], folder: Path) -> None:
    """Fetch the packages from S3 and check every byte against their manifests."""
    for request in requests:
        assert (request.status, request.error_code) == ("completed", None), request
        assert str(request.result_uri).startswith(exporter.settings.storage_root)
        (copy,) = exporter.download(request, folder / request.id)
        assert verify_package(copy).totals.documents_written == request.documents_done


def test_batches_spread_over_two_workers(cluster: Cluster, exporter: Exporter, demo: DemoData, tmp_path: Path) -> None:
    people = [demo.small_uid, demo.heaviest_uid]
    requests = [
        exporter.submit(NewRequest(demo.app_ids[0], [people[number % 2]], name)) for number, name in enumerate(FORMATS)
    ]
    finished = wait_for_all(cluster, exporter, requests, EXPORT_SECONDS)
    check_files(exporter, finished, tmp_path)
    assert {request.documents_done for request in finished} == {246, finished[1].documents_done}
    assert len({request.batch_id for request in finished}) >= len(requests) / cluster.settings.batch_size
    wait_until(lambda: min(cluster.runs_of("one"), cluster.runs_of("two")) > 0, 20, "work for both workers")


def test_the_command_line_reaches_the_deployment(cluster: Cluster, demo: DemoData, tmp_path: Path) -> None:
    cli = "export_pipeline"
    cluster.run(cli, "request", "--app", demo.app_ids[0], "--uid", demo.small_uid, "--format", "json", "--wait")
    (row, *_) = json.loads(cluster.run(cli, "status", "--json"))
    output = tmp_path / "me.json"
    cluster.run(cli, "download", row["id"], "--output", str(output))
    cluster.run(cli, "verify", str(output))
    assert len(json.loads(output.read_bytes())) == 246


def test_requests_outlive_workers_that_die_in_the_middle(
    cluster: Cluster, exporter: Exporter, demo: DemoData, tmp_path: Path
) -> None:
    """Of one worker all processes are killed, and of the other the one that makes the export."""
    requests = [exporter.submit(NewRequest(app, [demo.heaviest_uid], "html")) for app in demo.app_ids]  # two batches

    def both_are_made() -> bool:
        rows = [exporter.requests.get(request.id) for request in requests]
        return all(row.status == "running" and row.run_id for row in rows)

    def caught_in_the_middle() -> bool:
        if both_are_made():
            for name in WORKERS:
                cluster.signal(name, signal.SIGSTOP)
            if both_are_made():
                return True
            for name in WORKERS:
                cluster.signal(name, signal.SIGCONT)
        return False

    wait_until(caught_in_the_middle, EXPORT_SECONDS, "making both at once")
    cluster.signal("one", signal.SIGKILL)
    cluster.kill_run("two")
    cluster.signal("two", signal.SIGCONT)
    finished = wait_for_all(cluster, exporter, requests, RECOVERY_SECONDS)
    assert all(row.status == "completed" or row.error_code for row in finished)
    check_files(exporter, [row for row in finished if row.status == "completed"], tmp_path)
    assert any(row.status == "completed" for row in finished)
