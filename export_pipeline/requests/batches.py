"""The decision which pending requests share a run. No I/O."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from uuid_utils import uuid7

from export_pipeline.requests.models import Request


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that one run serves with one read of each collection. The id is opaque: Dagster's UI shows it."""

    id: str
    request_ids: tuple[str, ...]


def plan_batches(pending: Sequence[Request], limit: int) -> list[Batch]:
    """Pack pending requests, at most ``limit`` to a batch, the most urgent batch first.

    Requests of one app that ask for the same part of the data share a batch, since one query per collection then
    serves them all. A request whose last attempt failed travels alone, so that it cannot take others down twice; so
    does one with a limit, which counts for each request and not for each query.
    """
    companies: dict[tuple[str, str, str], list[Request]] = defaultdict(list)
    for request in sorted(pending, key=_urgency):
        alone = request.attempt > 0 or "limit" in request.selection.get("narrowing", {})
        part = json.dumps(request.selection.get("narrowing", {}), sort_keys=True)
        companies[request.app_id, part, request.id if alone else ""].append(request)
    groups = [
        requests[start : start + limit] for requests in companies.values() for start in range(0, len(requests), limit)
    ]
    groups.sort(key=lambda requests: _urgency(requests[0]))
    return [Batch(new_id(), tuple(request.id for request in requests)) for requests in groups]


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562): unique, opaque, ordered by age."""
    return str(uuid7())


def _urgency(request: Request) -> tuple[int, float, str]:
    due = request.due_at.timestamp() if request.due_at else float("inf")
    return (-request.priority, due, request.id)
