"""The sensor that puts right what does not fit together: rows that say they run, and runs that serve rows.

It decides in pure functions from rows and runs. A worker is dead when its lease has stood still for a while (see
``requests.leases``), whether Dagster says that its run lives or not; a run is pointless when no row is its own.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg

from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.launching_runs import report_to_launching_run
from export_pipeline.orchestration.names import BATCH_TAG
from export_pipeline.requests.leases import Watch
from export_pipeline.requests.models import Request
from export_pipeline.requests.store import HERE

WAITING = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING)
AT_WORK = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
ENDING = (dg.DagsterRunStatus.CANCELING,)

_watch = Watch()
"""What this process has seen of workers' leases; a process that starts anew looks anew."""

_idle = Watch()
"""Likewise, of runs that have nothing left to do."""


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs that Dagster has not seen the end of, by batch, and those of batches that had one at all."""

    waiting: Mapping[str, Sequence[str]] = field(default_factory=dict)
    at_work: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ending: frozenset[str] = frozenset()
    """Those at work that were told to end. Dagster takes one whose process is dead for ended some minutes after it was
    told so for the last time: told at every look, it would keep its place among the runs for ever."""
    over: frozenset[str] = frozenset()
    """Batches without a row's run id whose runs have all ended: they ended before they began."""


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Compares requests that say they run with signs of life and with Dagster's runs: gives up those whose "
    "process is dead, and ends runs that nobody waits for any more.",
)
def request_reconciler(context: dg.SensorEvaluationContext, exporter: dg.ResourceParam[Exporter]) -> dg.SkipReason:
    """Give up the requests of dead workers, and end the runs of cancelled ones."""
    running = exporter.requests.running()
    runs = runs_of(context.instance, running)
    marks = marks_of(running, runs)
    silent = _watch.silent(marks)
    leases = {request.batch_id: request.lease_until for request in running}
    lost = [request for batch_id in sorted(silent) for request in exporter.give_up(batch_id, leases[batch_id])]
    for request in lost:
        report_to_launching_run(context.instance, request)
    served = {request.batch_id for request in running}
    idle = _idle.silent({batch_id: None for batch_id in runs.at_work if batch_id not in served})
    unfinished = {**runs.waiting, **runs.at_work}
    ended = [
        run_id
        for batch_id in {*pointless(unfinished, exporter), *idle}
        for run_id in (*runs.waiting.get(batch_id, ()), *runs.at_work.get(batch_id, ()))
        if run_id not in runs.ending
    ]
    for run_id in ended:
        context.instance.run_coordinator.cancel_run(run_id)
    return dg.SkipReason(
        f"{len(running)} requests run, {len(lost)} of them were lost; {len(ended)} runs without requests were ended"
    )


def runs_of(instance: dg.DagsterInstance, running: Iterable[Request]) -> Runs:
    """Ask Dagster for the runs of batches."""

    def by_batch(statuses: Sequence[dg.DagsterRunStatus]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for run in instance.get_runs(filters=dg.RunsFilter(job_name="export_users", statuses=list(statuses))):
            if BATCH_TAG in run.tags:
                found.setdefault(run.tags[BATCH_TAG], []).append(run.run_id)
        return found

    waiting, at_work, ending = by_batch(WAITING), by_batch(AT_WORK), by_batch(ENDING)
    unattached = {
        str(request.batch_id)
        for request in running
        if request.run_id is None and request.batch_id not in waiting and request.batch_id not in at_work
    }
    over = {
        batch_id
        for batch_id in unattached
        if instance.get_runs(filters=dg.RunsFilter(tags={BATCH_TAG: batch_id}), limit=1)
    }
    told_to_end = frozenset(run_id for run_ids in ending.values() for run_id in run_ids)
    return Runs(waiting, at_work, told_to_end, frozenset(over))


def marks_of(running: Iterable[Request], runs: Runs) -> dict[str, Hashable]:
    """Return, by batch, what a living worker keeps changing; no mark for a batch whose work has not begun.

    A run that waits for its turn shows no signs of life, nor does a batch whose run is still to be asked for. The
    runs are part of the mark: Dagster may have started another one of a batch whose process died.
    """
    marks: dict[str, Hashable] = {}
    for request in running:
        batch_id = str(request.batch_id)
        at_work = tuple(runs.at_work.get(batch_id, ()))
        if request.run_id == HERE:
            marks[batch_id] = request.lease_until
        elif batch_id not in runs.waiting and (request.run_id is not None or at_work or batch_id in runs.over):
            marks[batch_id] = _mark(request.lease_until, at_work)
    return marks


def _mark(lease_until: datetime | None, at_work: tuple[str, ...]) -> Hashable:
    return (lease_until, at_work)


def pointless(batch_ids: Iterable[str], exporter: Exporter) -> list[str]:
    """Return those of the batches of unfinished runs that have lost all their requests: cancelled, or moved on.

    One whose requests have just completed or failed is about to end by itself; should its process have died just then,
    it is found idle after a while.
    """
    return [
        batch_id
        for batch_id in batch_ids
        if all(request.status == "cancelled" for request in exporter.requests.of_batch(batch_id))
    ]
