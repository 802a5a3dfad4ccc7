"""The sensor that gives pending requests to runs. It keeps no cursor, since the requests table is the truth."""

from time import monotonic, sleep

import dagster as dg

from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCH_PARTITIONS, BATCH_TAG
from export_pipeline.requests.batches import plan_batches

BATCHES_PER_TICK = 4
"""A tick has 60 s, and creating a run takes up to 0.25 s; what waits longer fills larger batches."""

PATIENCE_SECONDS = 4.0
"""How long a tick waits for a request to come. Dagster looks at sensors every 5 s: a tick that skipped at once would
leave a request waiting for half of that on average, more than all else costs on the way to its run."""

LOOK_EVERY_SECONDS = 0.2


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
    _wait_for_work(exporter)
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


def _wait_for_work(exporter: Exporter) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while not exporter.requests.pending(1) and not exporter.requests.unstarted_batches() and monotonic() < deadline:
        sleep(LOOK_EVERY_SECONDS)


def batch_run(batch_id: str, attempt: int) -> dg.RunRequest:
    """Return the run that serves a batch; the attempt is in the key, or a retry would be taken for a repetition."""
    return dg.RunRequest(run_key=f"{batch_id}:{attempt}", partition_key=batch_id, tags={BATCH_TAG: batch_id})
