"""A restore that is killed, at any step or at any moment, is called again and ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from export_pipeline.backups.restore_plan import TargetRefusedError
from export_pipeline.backups.restore_target import PROGRESS, RestoreFailedError, RestoreTarget
from export_pipeline.exporter import Exporter
from export_pipeline_tests.backups.test_restore import SECRET_KEY, BackUp, app, assert_same, back_up, restore

__all__ = ["app", "back_up"]  # fixtures

KILLED = """
import os, signal, sys, threading
from export_pipeline.backups import restore, restore_load, restore_target
from export_pipeline.backups.restore_plan import Wish
from export_pipeline.backups.restore_source import find_backup
from export_pipeline.installation import Installation
from export_pipeline.packages.layers import NO_KEYS
from export_pipeline.settings import Settings

steps, die_at, lock = 0, int(sys.argv[1]), threading.Lock()
def counted(owner, name):
    original = getattr(owner, name)
    def step(*arguments, **named):
        global steps
        with lock:
            steps += 1
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)
    setattr(owner, name, step)

counted(restore_load, "_insert")
counted(restore, "compare")
for name in ("prepare", "build_indexes", "finish"):
    counted(restore_target.RestoreTarget, name)
for name in ("begin", "add", "remove"):
    counted(restore_target.RestoreRecord, name)
with Installation(Settings.load()) as installation:
    folder = find_backup(installation, sys.argv[2])
    print("loading", flush=True)
    restoring = restore.Restore(installation, folder, installation.client, Wish([sys.argv[3]]), NO_KEYS)
    restoring.run()
    restoring.forget()
print(steps)
"""


def run(app: Exporter, backup: str, to: str, die_at: int, seconds: float | None = None) -> int:
    """Restore in a process that is killed at a step, or some seconds after it began; return its exit code."""
    settings = app.settings
    environment = {
        **{name: os.environ[name] for name in ("PATH",)},
        "DAGSTER_HOME": str(settings.home),
        "EXPORT_PIPELINE_MONGO_URI": settings.mongo_uri.get_secret_value(),
        "EXPORT_PIPELINE_MONGO_DATABASE": settings.mongo_database,
        "EXPORT_PIPELINE_CATALOG": str(settings.catalog),
        "EXPORT_PIPELINE_SECRET_KEY": SECRET_KEY,
    }
    command = [sys.executable, "-c", KILLED, str(die_at), backup, to]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        if seconds is not None:
            child.stdout.readline()
            time.sleep(seconds)
            child.kill()
        _, errors = child.communicate(timeout=60)
    assert child.returncode in (0, -signal.SIGKILL), errors.decode()[-2000:]
    return child.returncode


@pytest.mark.parametrize("steps", [[1, 2, 5], [9, 14, 19], [22, 27], [31, 38], [45, 52], [60, 66], [70, 75]], ids=str)
def test_a_restore_that_is_killed_at_a_step_is_continued(app: Exporter, back_up: BackUp, steps: list[int]) -> None:
    of, backup = app.settings.mongo_database, back_up()
    killed = [run(app, backup, f"{of}_copy", die_at) != 0 for die_at in steps]
    assert killed[0]
    if PROGRESS in app.client[f"{of}_copy"].list_collection_names():
        report = restore(app, backup, f"{of}_copy")
        assert report.continued
        assert report.documents > 4000
    assert_same(app.client, of, f"{of}_copy")
    assert PROGRESS not in app.client[f"{of}_copy"].list_collection_names()


def test_a_restore_that_is_killed_at_random_moments_is_continued(app: Exporter, back_up: BackUp) -> None:
    of, backup, rng = app.settings.mongo_database, back_up(), random.Random(11)
    target = app.client[f"{of}_copy"]
    for _ in range(5):
        run(app, backup, f"{of}_copy", 0, rng.random() * 1.5)
        is_done = target.list_collection_names() and PROGRESS not in target.list_collection_names()
        if is_done:
            break
    else:
        restore(app, backup, f"{of}_copy")
    assert_same(app.client, of, f"{of}_copy")


def test_an_interrupted_restore_is_not_mixed_with_another(
    app: Exporter, back_up: BackUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, backup, later = app.settings.mongo_database, back_up(), back_up()

    def refuse(*_: Any) -> None:
        raise RestoreFailedError("for the test")

    monkeypatch.setattr(RestoreTarget, "build_indexes", refuse)
    with pytest.raises(RestoreFailedError, match="for the test"):
        restore(app, backup, f"{of}_copy")
    monkeypatch.undo()
    with pytest.raises(TargetRefusedError, match="another restore into this database was interrupted"):
        restore(app, later, f"{of}_copy")
    restore(app, backup, f"{of}_copy")
    assert_same(app.client, of, f"{of}_copy")
