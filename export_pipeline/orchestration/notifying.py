"""The sensor that tells those who wait for a request's end. It keeps no cursor, since the outbox is the truth."""

import dagster as dg

from export_pipeline.exporter import Exporter
from export_pipeline.notifications.sending import Notifier
from export_pipeline.orchestration.resources import lasting_failures

SENDING_SECONDS = 15.0
"""A tick has 60 s, and what is begun may take some more."""


@dg.sensor(
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends the mails and webhooks that are due: of requests that have completed, or failed for good.",
)
def due_notifications(exporter: dg.ResourceParam[Exporter]) -> dg.SkipReason:
    """Send what is due; fail, so that it is seen, while the settings keep it from being sent."""
    with lasting_failures():
        drained = Notifier.of(exporter).drain(SENDING_SECONDS)
    if drained.problems:
        raise dg.Failure(f"notifications wait until this is put right: {'; '.join(drained.problems)}")
    told = ", ".join(f"{count} {state}" for state, count in sorted(drained.states.items()))
    return dg.SkipReason(told or "nothing is due")
