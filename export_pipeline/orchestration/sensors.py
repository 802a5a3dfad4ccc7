"""The sensors: one gives pending requests to runs, one puts right what a lost run left behind.

Both decide in pure functions from rows and runs; neither keeps a cursor, since the requests table is the truth.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from export_pipeline.errors import ExportPipelineError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.launching_runs import report_to_launching_run
from export_pipeline.orchestration.names import BATCH_PARTITIONS, BATCH_TAG
from export_pipeline.requests.batches import plan_batches
from export_pipeline.requests.models import Request
from export_pipeline.requests.store import HERE

BATCHES_PER_TICK = 4
"""A tick has 60 s, and creating a run takes up to 0.25 s; what waits longer fills larger batches."""

GRACE = timedelta(minutes=1)
"""How long a run may be over before its requests count as lost: Dagster may still start a retry of it."""


class LostRunError(ExportPipelineError):
    """The run that served the request ended without recording how the request ended."""

    code = "run_lost"


@dg.sensor(
    job_name="export_users",
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Claims pending requests, packs them into batches, and asks for a run of each.",
)
def pending_requests(
    context: dg.SensorEvaluationContext, exporter: dg.ResourceParam[Exporter]
) -> dg.SensorResult | dg.SkipReason:
    """Claim first, then ask for runs of all that is claimed and not begun.

    A crash between the two loses nothing: the next tick asks again, and the run key keeps a batch from running twice.
    """
    size = exporter.settings.batch_size
    pending = exporter.requests.pending(size * BATCHES_PER_TICK)
    for batch in plan_batches(pending, size)[:BATCHES_PER_TICK]:
        exporter.requests.claim(batch)
    waiting = exporter.requests.unstarted_batches()
    if not waiting:
        return dg.SkipReason("no request is pending")
    known = set(context.instance.get_dynamic_partitions(str(BATCH_PARTITIONS.name)))
    return dg.SensorResult(
        run_requests=[batch_run(batch_id, attempt) for batch_id, attempt in waiting.items()],
        dynamic_partitions_requests=[
            BATCH_PARTITIONS.build_add_request([batch_id for batch_id in waiting if batch_id not in known])
        ],
    )


def batch_run(batch_id: str, attempt: int) -> dg.RunRequest:
    """Return the run that serves a batch; the attempt is in the key, or a retry would be taken for a repetition."""
    return dg.RunRequest(run_key=f"{batch_id}:{attempt}", partition_key=batch_id, tags={BATCH_TAG: batch_id})


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Compares requests that say they run with the runs that serve them, and fails those whose run is gone.",
)
def request_reconciler(context: dg.SensorEvaluationContext, exporter: dg.ResourceParam[Exporter]) -> dg.SkipReason:
    """Fail requests whose run ended without a word, and those of a command line that went silent."""
    running = exporter.requests.running()
    ended = {run_id: ended_at(context.instance, run_id) for run_id in {request.run_id for request in running} if run_id}
    silence = exporter.settings.read_timeout + timedelta(minutes=5)
    lost = lost_requests(running, ended, datetime.now(UTC), silence)
    for request in lost:
        exporter.give_up(
            request, LostRunError("the process that made this export ended without finishing it; retry the request")
        )
        report_to_launching_run(context.instance, exporter.requests.get(request.id))
    return dg.SkipReason(f"{len(running)} requests run, {len(lost)} of them were lost and have been failed")


def ended_at(instance: dg.DagsterInstance, run_id: str) -> datetime | None:
    """Return when a run ended; None while it lives. A run that Dagster no longer knows ended long ago."""
    if run_id == HERE:
        return None
    record = instance.get_run_record_by_id(run_id)
    if record is None:
        return datetime.min.replace(tzinfo=UTC)
    if not record.dagster_run.is_finished:
        return None
    return datetime.fromtimestamp(record.end_time or 0, UTC)


def lost_requests(
    running: Sequence[Request], ended: Mapping[str, datetime | None], now: datetime, silence: timedelta
) -> list[Request]:
    """Return the running requests that nobody works on any more.

    A request of a Dagster run is lost when the run has been over for a while; one that its submitter serves
    (no run to ask) when it has given no sign of life for longer than any query may take.
    """

    def is_lost(request: Request) -> bool:
        if request.run_id == HERE:
            return now - request.updated_at > silence
        end = ended.get(request.run_id) if request.run_id else None
        return end is not None and now - end > GRACE

    return [request for request in running if is_lost(request)]
