"""What the runs of backups and of restores have in common: which row they serve, and how they work on it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dagster as dg

from export_pipeline.backups.working import interrupted, record_failure, unexpected
from export_pipeline.errors import ExportPipelineError, StaleRequestError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration.names import BATCH_TAG
from export_pipeline.orchestration.resources import lasting_failures
from export_pipeline.requests.leases import Lease
from export_pipeline.requests.models import Request
from export_pipeline.requests.retries import PASSING

MORE_TRIES = 2
SECONDS_BETWEEN_TRIES = 5

TAGS = {"dagster/max_runtime": str(14 * 24 * 3600), "dagster/retry_strategy": "ALL_STEPS"}
"""Of the jobs' runs. They may take longer than others are let live, since dead ones are found by their leases. A run
that replaces one whose process died begins at the beginning, where all that is done is taken up: from the failure on,
which is Dagster's way, it would leave out steps of a dynamic output that had not begun."""


def row_of_run(context: dg.OpExecutionContext, exporter: Exporter) -> Request | None:
    """Return the row that the run serves; None for one that nobody asked for by a row."""
    run = context.instance.get_run_by_id(context.run_id)
    batch_id = run.tags.get(BATCH_TAG) if run is not None else None  # the tags that the context has may be older
    return next(iter(exporter.requests.of_batch(batch_id)), None) if batch_id else None


def begin_row(context: dg.OpExecutionContext, exporter: Exporter, request: Request) -> None:
    """Note that the run serves the row. Raises StaleRequestError while another one does, or where none is to."""
    if request.status != "running":
        raise StaleRequestError(f"request {request.id} is {request.status}; ask for a new one instead")
    other = context.instance.get_run_by_id(request.run_id) if request.run_id else None
    if other is not None and other.run_id != context.run_id and not other.is_finished:
        raise StaleRequestError(f"run {other.run_id} serves this request at the moment; wait for it, or end it first")
    if context.run.tags.get(BATCH_TAG) != request.batch_id:
        context.instance.add_run_tags(context.run_id, {BATCH_TAG: str(request.batch_id)})
    exporter.requests.attach_run(str(request.batch_id), context.run_id)


@contextmanager
def at_work(context: dg.OpExecutionContext, exporter: Exporter, request: Request, what: str) -> Iterator[Lease]:
    """Show signs of life while a step works; a passing fault is tried again by the step, any other fails the row."""
    with lasting_failures(), Lease(exporter.requests, str(request.batch_id)) as lease:
        try:
            yield lease
        except ExportPipelineError as error:
            if error.code in PASSING and error.code != "snapshot_too_old" and context.retry_number < MORE_TRIES:
                raise dg.RetryRequested(MORE_TRIES, SECONDS_BETWEEN_TRIES) from error
            record_failure(exporter.requests, request, error)
            raise
        except BaseException as error:
            told = unexpected(what, error) if isinstance(error, Exception) else interrupted(what)
            with suppress(ExportPipelineError):  # then the reconciler finds it, and what ended the run is what is told
                record_failure(exporter.requests, request, told)
            raise
