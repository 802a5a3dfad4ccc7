"""A deployment on several machines, played on one: PostgreSQL, S3 and Redis, Dagster's daemon, and Celery workers.

Each process has a DAGSTER_HOME of its own, as on machines that share no disk.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

import export_pipeline
from export_pipeline.guardian import Guarded
from export_pipeline.settings import ENV_PREFIX, Settings, environment_variable

DEPLOYMENT = Path(export_pipeline.__file__).parent / "deployment"
WORKSPACE = Path(export_pipeline.__file__).parent / "orchestration" / "workspace.yaml"
WORKER_APP = "export_pipeline.orchestration.celery_worker"
START_SECONDS = 90


@dataclass
class Cluster:
    """The servers, and the settings on which programs find them; a daemon and workers are started as needed."""

    settings: Settings
    environment: Mapping[str, str]
    _folder: Path = field(repr=False)
    _stack: ExitStack = field(repr=False)
    _processes: dict[str, Guarded] = field(default_factory=dict, repr=False)

    def start_daemon(self) -> None:
        """Start Dagster's daemon, as a user would."""
        home = self._home("daemon")
        shutil.copyfile(WORKSPACE, home / "workspace.yaml")
        self._start("daemon", [sys.executable, "-m", "dagster._daemon", "run"], home)

    def start_worker(self, name: str, *, processes: int = 1) -> None:
        """Start a Celery worker and wait until it takes runs."""
        home = self._home(name)
        worker = [sys.executable, "-m", "celery", "-A", WORKER_APP, "worker", "--concurrency", str(processes)]
        worker += ["--loglevel", "INFO", "-n", f"{name}@%h", "--pidfile", str(home / "pid")]
        self._start(name, worker, home)
        wait_until(lambda: self._is_ready(name), START_SECONDS, f"starting worker {name}")

    def runs_of(self, name: str) -> int:
        """Return how many runs a worker has brought to their end."""
        return len(re.findall(r"Task execute_job\[.*\] succeeded", self.log(name)))

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a worker at once, as if to its whole machine."""
        os.killpg(os.getpgid(self._pid(name)), number)

    def kill_run(self, name: str) -> None:
        """Kill the process in which a worker runs what it took, as the kernel does where memory runs out."""
        for process in psutil.Process(self._pid(name)).children():
            process.kill()

    def _pid(self, name: str) -> int:
        return int((self._folder / name / "pid").read_text())

    def stop(self, name: str) -> None:
        """Stop a process as an operator would, and wait for it."""
        self._processes.pop(name).stop()

    def log(self, name: str) -> str:
        """Return what a process has said."""
        return self._processes[name].log.read_text(errors="replace")

    def run(self, *command: str) -> str:
        """Run a command of ours in this deployment's environment; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", *command], env=dict(self.environment), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _home(self, name: str) -> Path:
        home = self._folder / name
        home.mkdir(exist_ok=True)
        shutil.copyfile(DEPLOYMENT / "celery.dagster.yaml", home / "dagster.yaml")
        return home

    def _start(self, name: str, command: list[str], home: Path) -> None:
        environment = {**self.environment, "DAGSTER_HOME": str(home)}
        process = Guarded(command, log=home / "log", environment=environment, folder=home)
        self._processes[name] = self._stack.enter_context(process)

    def _is_ready(self, name: str) -> bool:
        assert self._processes[name].ended() is None, self.log(name)
        return f"{name}@" in self.log(name) and " ready." in self.log(name)


@contextmanager
def running_cluster(folder: Path, **settings: Any) -> Iterator[Cluster]:
    """Run the servers while the block runs, with Dagster's tables made; skip the test where one is not installed.

    ``settings`` are more of them, the MongoDB first of all. Addresses and keys are in this process's environment too,
    so that an ``Exporter`` on the cluster's settings works here, and a ``DagsterInstance`` on their home.
    """
    # Imported late: pytest wants to be the first to import the modules that it takes fixtures from.
    from export_pipeline_tests import s3_server
    from export_pipeline_tests.postgres import running_postgres_server
    from export_pipeline_tests.redis_server import running_redis_server

    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres_server())
        redis = stack.enter_context(running_redis_server())
        s3 = stack.enter_context(s3_server.running_s3_server())
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        s3_server.set_aws_keys(monkeypatch)
        known = Settings(
            requests_url=postgres.new_database(),
            storage=f"s3://{s3_server.BUCKET}/installation",
            s3_endpoint_url=s3.url,
            s3_region=s3_server.REGION,
            **{"home": folder / "client", **settings},
        )
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres.new_database().replace("+psycopg:", "+psycopg2:"))
        monkeypatch.setenv("DAGSTER_CELERY_BROKER_URL", redis.url(0))
        monkeypatch.setenv("DAGSTER_CELERY_BACKEND_URL", redis.url(1))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        processes = stack.enter_context(ExitStack())
        cluster = Cluster(known, inherited | variables(known), folder, processes)
        known.home.mkdir(exist_ok=True)
        shutil.copyfile(DEPLOYMENT / "celery.dagster.yaml", known.home / "dagster.yaml")
        cluster.run("dagster", "instance", "migrate")
        yield cluster


def variables(settings: Settings) -> dict[str, str]:
    """Return the environment variables that make these settings."""

    def plain(value: Any) -> str:
        return str(value.get_secret_value() if isinstance(value, SecretStr) else value)

    return {environment_variable(name): plain(getattr(settings, name)) for name in settings.model_fields_set}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something that has to come true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} took longer than {seconds} s"
        time.sleep(0.05)
