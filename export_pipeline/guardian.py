"""Runs a command that ends when its owner ends, however the owner ends.

``python guardian.py GRACE_SECONDS REMOVE_DIR COMMAND…`` is the guardian process: it holds the read end of a pipe
whose write end only the owner has, so even a SIGKILL of the owner reaches it, as end of file. Standard library
only, and nothing of this package, so that a guardian starts at once and costs little.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self


class Guarded:
    """A command under guard; a context manager that stops it, and all that it started, on leaving."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        remove: Path | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        grace: float = 10.0,
    ) -> None:
        """Start ``command`` with its output in ``log``.

        It runs in ``folder``. ``remove`` is a folder to delete once it has ended; ``grace`` is how many seconds
        it has between SIGTERM and SIGKILL.
        """
        self.log = log
        guardian = [sys.executable, "-I", __file__, str(grace), str(remove or ""), *command]
        with log.open("ab") as output:
            self._guardian = subprocess.Popen(
                guardian,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=None if environment is None else dict(environment),
                # Ctrl-C in a terminal goes to the whole foreground group; the owner decides what it means.
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """Return the command's exit status, or None while it runs."""
        return self._guardian.poll()

    def stop(self) -> None:
        """Stop the command and wait until it, its children and the folder to remove are gone."""
        pipe: IO[bytes] | None = self._guardian.stdin
        if pipe is not None:
            pipe.close()
        self._guardian.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _die_with_parent() -> None:
    """Ask Linux to kill this process with its parent, for the case that the guardian itself is killed."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def guard(grace: float, remove: str, command: Sequence[str]) -> int:
    """Be the guardian: run ``command`` until it ends or standard input closes; return its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _run(grace, command)
    finally:
        if remove:
            shutil.rmtree(remove, ignore_errors=True)


def _run(grace: float, command: Sequence[str]) -> int:
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # safe: this process has one thread so far
    )

    def stop_when_owner_ends() -> None:
        # Not sys.stdin.read(): it holds a lock that makes Python abort where the command ends before its owner.
        os.read(sys.stdin.fileno(), 1)
        _signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            _signal_group(child.pid, signal.SIGKILL)

    threading.Thread(target=stop_when_owner_ends, daemon=True).start()
    try:
        return child.wait()
    finally:
        # What the command started in its group goes with it, also where the command ended by itself.
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()


if __name__ == "__main__":
    sys.exit(guard(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
