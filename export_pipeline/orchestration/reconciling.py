"""The sensor that puts right what does not fit together: rows that say they run, and runs that serve rows.

It decides in pure functions from rows and runs. A worker is dead when its lease has stood still for a while (see
``requests.leases``), whether Dagster says that its run lives or not; a run is pointless when no row is its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic

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

SERVING = ("export_users", "backup_app", "restore_backup")
"""The jobs whose runs serve rows."""

IDLE = "idle "
"""Before the batch of a run that has nothing left to do, in what is watched."""


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
def request_reconciler(context: dg.SensorEvaluationContext, exporter: dg.ResourceParam[Exporter]) -> dg.SensorResult:
    """Give up the requests of dead workers, and end the runs of cancelled ones."""
    running = exporter.requests.running()
    runs = runs_of(context.instance, running)
    watch = Watch(monotonic, context.cursor)
    silent = watch.silent({**marks_of(running, runs), **idle_marks(running, runs)})
    leases = {str(request.batch_id): request.lease_until for request in running}
    lost = [
        request
        for batch_id in sorted(silent & leases.keys())
        for request in exporter.give_up(batch_id, leases[batch_id])
    ]
    for request in lost:
        report_to_launching_run(context.instance, request)
    idle = {watched.removeprefix(IDLE) for watched in silent if watched.startswith(IDLE)}
    unfinished = {**runs.waiting, **runs.at_work}
    ended = [
        run_id
        for batch_id in {*pointless(unfinished, exporter), *idle}
        for run_id in (*runs.waiting.get(batch_id, ()), *runs.at_work.get(batch_id, ()))
        if run_id not in runs.ending
    ]
    for run_id in ended:
        context.instance.run_coordinator.cancel_run(run_id)
    done = f"{len(running)} requests run, {len(lost)} of them were lost; {len(ended)} runs without requests were ended"
    return dg.SensorResult(skip_reason=dg.SkipReason(done), cursor=watch.memory)


def runs_of(instance: dg.DagsterInstance, running: Iterable[Request]) -> Runs:
    """Ask Dagster for the runs of batches."""

    def by_batch(statuses: Sequence[dg.DagsterRunStatus]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        runs = (instance.get_runs(dg.RunsFilter(job_name=job, statuses=list(statuses))) for job in SERVING)
        for run in chain.from_iterable(runs):
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


def marks_of(running: Iterable[Request], runs: Runs) -> dict[str, str]:
    """Return, by batch, what a living worker keeps changing; no mark for a batch whose work has not begun.

    A run that waits for its turn shows no signs of life, nor does a batch whose run is still to be asked for. The
    runs are part of the mark: Dagster may have started another one of a batch whose process died.
    """
    marks: dict[str, str] = {}
    for request in running:
        batch_id = str(request.batch_id)
        at_work = tuple(runs.at_work.get(batch_id, ()))
        if request.run_id == HERE:
            marks[batch_id] = str(request.lease_until)
        elif batch_id not in runs.waiting and (request.run_id is not None or at_work or batch_id in runs.over):
            marks[batch_id] = f"{request.lease_until} {at_work}"
    return marks


def idle_marks(running: Iterable[Request], runs: Runs) -> dict[str, str]:
    """Return a mark, which never changes, for each batch that a run is at work on and that has no request left."""
    served = {request.batch_id for request in running}
    return {f"{IDLE}{batch_id}": "" for batch_id in runs.at_work if batch_id not in served}


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
