"""A guarded command ends with its owner, and so do its children and its folder, however the owner ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from export_pipeline.guardian import Guarded

SOON = 15.0
"""Seconds; generous, since the machine may be busy."""

WRITE_PID = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))"
SLEEP = f"{WRITE_PID}; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
WITH_CHILD = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1] + ".child").write_text(str(child.pid))
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def pid_in(file: Path) -> int:
    """The process id that a command writes into ``file``."""
    wait_until(lambda: file.exists() and bool(file.read_text()))
    return int(file.read_text())


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[Path]:
    """Where a test's commands write their process ids; what still runs after the test is killed."""
    yield tmp_path / "pid"
    for file in tmp_path.glob("pid*"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def python(program: str, *arguments: Path) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def test_stop_ends_the_command_and_removes_its_folder(tmp_path: Path, pid_file: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with Guarded(python(SLEEP, pid_file), log=tmp_path / "log", remove=folder) as command:
        pid = pid_in(pid_file)
        assert runs(pid)
        assert command.ended() is None
        assert folder.exists()
    assert not runs(pid)
    assert not folder.exists()
    assert command.ended() is not None


def test_stopping_twice_is_no_error(tmp_path: Path) -> None:
    command = Guarded(python("import time; time.sleep(600)"), log=tmp_path / "log")
    command.stop()
    command.stop()


@pytest.mark.parametrize("status", [0, 7])
def test_the_exit_status_is_passed_on(tmp_path: Path, status: int) -> None:
    with Guarded(python(f"raise SystemExit({status})"), log=tmp_path / "log") as command:
        wait_until(lambda: command.ended() is not None)
        assert command.ended() == status


def test_a_command_that_ends_by_itself_leaves_no_folder_and_no_noise(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with Guarded(python("print('done')"), log=tmp_path / "log", remove=folder) as command:
        wait_until(lambda: command.ended() is not None)
        assert not folder.exists()
    assert (tmp_path / "log").read_text() == "done\n"


def test_the_output_is_added_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    program = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    with Guarded(python(program), log=log) as command:
        wait_until(lambda: command.ended() is not None)
    assert log.read_text() == "before\nout\nerr\n"


def test_it_runs_in_the_folder_and_environment_that_were_given(tmp_path: Path) -> None:
    program = "import os; print(os.getcwd(), sorted(set(os.environ) & {'HOME', 'ONLY'}), os.environ['ONLY'])"
    with Guarded(python(program), log=tmp_path / "log", environment={"ONLY": "this"}, folder=tmp_path) as command:
        wait_until(lambda: command.ended() is not None)
    assert (tmp_path / "log").read_text() == f"{tmp_path} ['ONLY'] this\n"


def test_children_of_the_command_go_too(tmp_path: Path, pid_file: Path) -> None:
    with Guarded(python(f"{WRITE_PID}\n{WITH_CHILD}\ntime.sleep(600)", pid_file), log=tmp_path / "log"):
        child = pid_in(pid_file.with_suffix(".child"))
        assert runs(child)
    wait_until(lambda: not runs(child))


def test_children_go_also_where_the_command_ends_by_itself(tmp_path: Path, pid_file: Path) -> None:
    with Guarded(python(f"{WRITE_PID}\n{WITH_CHILD}", pid_file), log=tmp_path / "log") as command:
        child = pid_in(pid_file.with_suffix(".child"))
        wait_until(lambda: command.ended() is not None)
        wait_until(lambda: not runs(child))


def test_a_command_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path, pid_file: Path) -> None:
    with Guarded(python(STUBBORN, pid_file), log=tmp_path / "log", grace=0.3):
        pid = pid_in(pid_file)
        asked = time.monotonic()
    assert not runs(pid)
    assert time.monotonic() - asked >= 0.3


def test_a_command_may_use_its_grace_to_tidy_up(tmp_path: Path, pid_file: Path) -> None:
    tidy = "import signal\ndef tidy(*_):\n    time.sleep(0.2); print('tidied'); sys.exit(0)\n"
    program = f"{tidy}signal.signal(signal.SIGTERM, tidy)\n{SLEEP}"
    with Guarded(python(program, pid_file), log=tmp_path / "log"):
        pid_in(pid_file)
    assert (tmp_path / "log").read_text() == "tidied\n"


@pytest.mark.parametrize("command", [SLEEP, STUBBORN])
def test_sigkill_of_the_owner_ends_the_command_and_removes_the_folder(
    tmp_path: Path, pid_file: Path, command: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    owner_program = """
import pathlib, sys, time
from export_pipeline.guardian import Guarded
program, pid_file, log, folder = sys.argv[1:]
command = [sys.executable, "-c", program, pid_file]
guarded = Guarded(command, log=pathlib.Path(log), remove=pathlib.Path(folder), grace=0.3)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", owner_program, command, str(pid_file), str(tmp_path / "log"), str(folder)]
    ) as owner:
        pid = pid_in(pid_file)
        assert runs(pid)
        owner.kill()
    wait_until(lambda: not runs(pid))
    wait_until(lambda: not folder.exists())


def test_sigkill_of_the_guardian_ends_the_command(tmp_path: Path, pid_file: Path) -> None:
    with Guarded(python(STUBBORN, pid_file), log=tmp_path / "log") as command:
        pid = pid_in(pid_file)
        guardian = psutil.Process(pid).parent()
        assert guardian is not None
        guardian.kill()
        wait_until(lambda: not runs(pid))
        wait_until(lambda: command.ended() is not None)


def test_sigterm_of_the_guardian_ends_the_command_and_removes_the_folder(tmp_path: Path, pid_file: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with Guarded(python(SLEEP, pid_file), log=tmp_path / "log", remove=folder) as command:
        pid = pid_in(pid_file)
        guardian = psutil.Process(pid).parent()
        assert guardian is not None
        guardian.terminate()
        wait_until(lambda: command.ended() is not None)
        wait_until(lambda: not runs(pid))
        assert not folder.exists()


def test_a_command_that_does_not_exist_ends_at_once_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with Guarded(["/no/such/command"], log=tmp_path / "log", remove=folder) as command:
        wait_until(lambda: command.ended() is not None)
        assert command.ended() != 0
        assert "/no/such/command" in (tmp_path / "log").read_text()
        assert not folder.exists()
