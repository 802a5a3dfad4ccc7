"""The stages of an export at which faults strike, and how the harness stops a process under test there.

They talk through files in one folder: the harness writes ``armed`` with a stage's name; the first process that gets
there takes it, writes its id to ``reached``, and waits until the harness writes ``released``.
"""

import time
from pathlib import Path

CLAIMED = "claimed"
PLANNING = "planning"
READING = "reading"
SLICES_HALF = "slices half"
ASSEMBLING = "assembling"
VERIFYING = "verifying"
PUBLISHING = "publishing"
RECORDING = "recording"
RECORDED = "recorded"

IN_THE_RUN = (PLANNING, READING, SLICES_HALF, ASSEMBLING, VERIFYING, PUBLISHING, RECORDING)
"""Those that the run process passes. ``publishing``: the file is in its place, its manifest is not."""

ALL = (CLAIMED, *IN_THE_RUN)
"""``claimed``: the sensor has claimed the requests and not yet asked for a run."""

INJECTED = Path(__file__).parent / "injected"
"""On the PYTHONPATH of the processes under test."""


class Stop:
    """The harness's side; see ``injected/sitecustomize.py`` for the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arm(self, stage: str) -> None:
        """Let the next process that gets to ``stage`` stop there."""
        for name in ("released", "reached", "armed"):
            (self.folder / name).unlink(missing_ok=True)
        written = self.folder / "arming"
        written.write_text(stage)
        written.rename(self.folder / "armed")

    def wait(self, seconds: float) -> int | None:
        """Wait for a process to get there; return its id, or None where none does in time."""
        deadline = time.monotonic() + seconds
        while not (self.folder / "reached").exists():
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        return int((self.folder / "reached").read_text())

    def release(self) -> None:
        """Let the stopped process go on, and nobody else stop."""
        (self.folder / "armed").unlink(missing_ok=True)
        (self.folder / "released").touch()

    def set_clock(self, wrong_by: float, process: int | None = None) -> None:
        """Let the clock of all processes, or of one, be wrong by so many seconds."""
        written = self.folder / "clock.new"
        written.write_text(str(wrong_by))
        written.rename(self.folder / ("clock" if process is None else f"clock.{process}"))
