"""Carrying a request's state back to the Dagster run that asked for it, as tags, for clients that know only GraphQL."""

import dagster as dg

from export_pipeline.orchestration.names import REQUEST_TAG, STATUS_TAG
from export_pipeline.requests.models import Request

_ASKED_BY_RUN = "dagster:"


def asked_by_run(run_id: str) -> str:
    """Return the ``requested_by`` of a request that a run of ``request_export`` makes."""
    return f"{_ASKED_BY_RUN}{run_id}"


def launching_run(request: Request) -> str | None:
    """Return the id of the run that asked for ``request``; None where it came another way."""
    asked = request.requested_by
    return asked.removeprefix(_ASKED_BY_RUN) if asked.startswith(_ASKED_BY_RUN) else None


def report_to_launching_run(instance: dg.DagsterInstance, request: Request) -> None:
    """Tag the run that asked for ``request`` with the request's id and state; the row stays the truth."""
    run_id = launching_run(request)
    if run_id is not None and instance.has_run(run_id):
        instance.add_run_tags(run_id, {REQUEST_TAG: request.id, STATUS_TAG: request.status})
