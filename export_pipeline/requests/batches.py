"""The decision which pending requests share a run. No I/O."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from uuid_utils import uuid7

from export_pipeline.requests.models import Request

MOST_PEOPLE = 20_000
"""In one batch: its plan, which is held in memory, and its time grow with them. One request may have more, alone."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that one run serves with one read of each collection. The id is opaque: Dagster's UI shows it."""

    id: str
    request_ids: tuple[str, ...]


def plan_batches(pending: Sequence[Request], limit: int) -> list[Batch]:
    """Pack pending requests, at most ``limit`` to a batch, the most urgent batch first.

    Requests of one app that ask for the same part of the data share a batch, since one query per collection then
    serves them all. A request that has failed shares one only with as many as its ``company`` allows, so that it
    cannot take others down again; one with a limit travels alone, since the limit counts for each request and not
    for each query.
    """
    companies: dict[tuple[str, str, int, str], list[Request]] = defaultdict(list)
    for request in sorted(pending, key=_urgency):
        alone = "limit" in request.selection.get("narrowing", {})
        part = json.dumps(request.selection.get("narrowing", {}), sort_keys=True)
        size = min(limit, request.company or limit)
        companies[request.app_id, part, size, request.id if alone else ""].append(request)
    groups = [group for (_, _, size, _), requests in companies.items() for group in _cut(requests, size)]
    groups.sort(key=lambda requests: _urgency(requests[0]))
    return [Batch(new_id(), tuple(request.id for request in requests)) for requests in groups]


def _cut(requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Cut requests into groups of at most ``size`` requests and, but for single ones, MOST_PEOPLE people."""
    group: list[Request] = []
    people = 0
    for request in requests:
        people += request.most_people
        if group and (len(group) == size or people > MOST_PEOPLE):
            yield group
            group, people = [], request.most_people
        group.append(request)
    if group:
        yield group


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562): unique, opaque, ordered by age."""
    return str(uuid7())


def made_at(made: str) -> datetime | None:
    """Return when ``new_id`` made an id; None for what it did not make."""
    try:
        parsed = UUID(made)
    except ValueError:
        return None
    return datetime.fromtimestamp((parsed.int >> 80) / 1000, UTC) if parsed.version == 7 else None


def _urgency(request: Request) -> tuple[int, float, str]:
    due = request.due_at.timestamp() if request.due_at else float("inf")
    return (-request.priority, due, request.id)
