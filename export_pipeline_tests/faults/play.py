"""Plays one fault: something is asked for, stopped at a stage, the strike, and then hands off until all have ended."""

import time
from dataclasses import dataclass
from threading import Timer
from typing import Literal

from export_pipeline_tests.faults.house import Database, House, Store
from export_pipeline_tests.faults.remains import Remains, examine
from export_pipeline_tests.faults.tasks import TASKS, TaskName
from export_pipeline_tests.faults.victims import MENDED_AT_THE_END, VICTIMS

REACH_SECONDS = 240.0
END_SECONDS = 480.0
SETTLE_SECONDS = 240.0
MENDED_AFTER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Whom it strikes, when, and how its requests have to end."""

    victim: str
    stage: str
    database: Database = "sqlite"
    store: Store = "directory"
    ends: Literal["completed", "failed"] = "completed"
    task: TaskName = "exports"


@dataclass(frozen=True, slots=True)
class Played:
    """How it went."""

    fault: Fault
    statuses: list[str]
    reasons: list[str]
    ended: bool
    seconds: float
    attempts: int
    remains: Remains
    problem: str = ""

    @property
    def is_well(self) -> bool:
        """Whether all is as it must be."""
        expected = set(self.statuses) == {self.fault.ends} and (self.fault.ends == "completed" or all(self.reasons))
        return self.ended and expected and not self.found and self.remains.published == self.statuses.count("completed")

    @property
    def found(self) -> list[str]:
        """What must not be."""
        remains = self.remains
        doubled = [f"completed twice: {request_id}" for request_id in remains.doubled]
        return [*([self.problem] if self.problem else []), *remains.lost, *doubled, *remains.leftovers]


def play(house: House, fault: Fault) -> Played:
    """Play a fault; what is found wrong is in the result, and nothing is raised for it."""
    task = TASKS[fault.task]
    house.stop.arm(fault.stage)
    requests = task.submit(house)
    process = house.stop.wait(REACH_SECONDS)
    problem = "" if process else f"nobody got to this stage within {REACH_SECONDS:.0f} s"
    begun = time.monotonic()
    mend = VICTIMS[fault.victim](house, process) if process else lambda: None
    house.stop.release()
    mending = Timer(MENDED_AFTER_SECONDS, mend)
    if fault.victim not in MENDED_AT_THE_END:
        mending.start()
    ended = house.wait_until_over(requests, END_SECONDS)
    seconds = time.monotonic() - begun
    if fault.victim in MENDED_AT_THE_END:
        mending.start()
    mending.join()
    house.wait_for_servers()
    problem = problem or _unsettled(house)
    rows = house.rows(requests)
    if not ended:
        remains = Remains(0)
        for row in rows:
            if row.is_live:
                house.exporter.cancel(row.id, "faults")
    else:
        remains = examine(house, task, rows)
    return Played(
        fault,
        [row.status for row in rows],
        [row.error_code or "" for row in rows],
        ended,
        seconds,
        max(row.attempt for row in rows),
        remains,
        problem,
    )


def _unsettled(house: House) -> str:
    """Wait until Dagster has seen the end of all runs and no process of theirs is left; say which are."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        runs, processes = house.unfinished_runs(), house.run_processes()
        if not runs and not processes:
            return ""
        if time.monotonic() > deadline:
            return f"{len(runs)} runs without an end, {len(processes)} processes left"
        time.sleep(0.3)
