"""Dagster's own daemon on an installation, with the run launcher and the settings that the project ships."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from export_pipeline.demo.run import DAGSTER_FILES
from export_pipeline.exporter import Exporter
from export_pipeline.guardian import Guarded
from export_pipeline.requests.models import FINISHED, NewRequest
from export_pipeline.settings import ENV_PREFIX, Settings, environment_variable

PATIENCE_SECONDS = 600.0
POLL_SECONDS = 0.05


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which another process finds the same settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    given = {
        environment_variable(field): str(getattr(settings, field))
        for field in settings.model_fields_set - {"mongo_uri"}
    }
    return inherited | given | {environment_variable("mongo_uri"): settings.mongo_uri.get_secret_value()}


@contextmanager
def dagster_daemon(settings: Settings, modules: Sequence[str] = ()) -> Iterator[dg.DagsterInstance]:
    """Run the daemon, with ``modules`` as code locations beside the project's; yields its instance."""
    for file in DAGSTER_FILES:
        shutil.copyfile(file, settings.home / file.name)
    with (settings.home / "workspace.yaml").open("a") as workspace:
        workspace.writelines(f"  - python_module: {module}\n" for module in modules)
    log = settings.home / "dagster.log"
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(settings.home / "workspace.yaml")]
    folder = Path(__file__).parents[2]  # where ``modules`` are found
    with dg.DagsterInstance.from_config(str(settings.home)) as instance:
        # Of two processes that open an empty home at once, one crashes.
        instance.get_runs_count()
        instance.get_dynamic_partitions("batches")
        instance.all_instigator_state()
        with Guarded(command, log=log, environment=environment(settings), folder=folder) as daemon:

            def check() -> None:
                if daemon.ended() is not None:
                    raise SystemExit(f"Dagster's daemon ended:\n{log.read_text()[-3000:]}")

            yield instance
            check()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for ``condition``; end the benchmark where it does not come true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} took longer than {PATIENCE_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def export_one(exporter: Exporter, new: NewRequest) -> float:
    """Ask for an export and wait for the daemon to make it; return the seconds from insertion to completion."""
    begun = time.perf_counter()
    request = exporter.submit(new)
    wait_until(lambda: exporter.requests.get(request.id).status in FINISHED, "a request")
    seconds = time.perf_counter() - begun
    finished = exporter.requests.get(request.id)
    if finished.status != "completed":
        raise SystemExit(f"a request ended as {finished.status}: {finished.error_code}")
    return seconds
