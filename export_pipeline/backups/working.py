"""Working on a backup's or a restore's row: signs of life, and what is recorded where the work ends early."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from export_pipeline.errors import ExportPipelineError
from export_pipeline.requests.leases import Lease
from export_pipeline.requests.models import Request
from export_pipeline.requests.working import BatchWork


class InterruptedWorkError(ExportPipelineError):
    """The process was told to stop."""

    code = "interrupted"


class UnexpectedError(ExportPipelineError):
    """Something that should not happen. Only its kind is told: an unforeseen message may quote data."""

    code = "internal"


@contextmanager
def at_work(requests: BatchWork, request: Request, what: str) -> Iterator[Lease]:
    """Show signs of life for a row, and record what ends the work before its time; ``what`` it is, in a word."""
    with Lease(requests, str(request.batch_id)) as lease:
        try:
            yield lease
        except ExportPipelineError as error:
            record_failure(requests, request, error)
            raise
        except Exception as error:
            with suppress(ExportPipelineError):  # then whoever watches leases finds it
                record_failure(requests, request, unexpected(what, error))
            raise
        except BaseException:
            with suppress(ExportPipelineError):
                record_failure(requests, request, interrupted(what))
            raise


def record_failure(requests: BatchWork, request: Request, error: ExportPipelineError) -> None:
    """Record why the work on a row failed; what it has written stays, for the next attempt to take up."""
    requests.fail_batch(str(request.batch_id), code=error.code, message=str(error))


def unexpected(what: str, error: Exception) -> UnexpectedError:
    """Return what is recorded of an error that should not happen."""
    return UnexpectedError(f"the {what} ended with an unexpected {type(error).__name__}; please report it")


def interrupted(what: str) -> InterruptedWorkError:
    """Return what is recorded where a process was told to stop."""
    return InterruptedWorkError(f"the {what} was interrupted; a retry goes on with it")
