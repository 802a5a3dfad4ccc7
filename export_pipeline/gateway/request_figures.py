"""Figures of the requests table, each a sum that the database makes. They name no person."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, case, extract, func, select

from export_pipeline.requests.database import database_errors
from export_pipeline.requests.models import LIVE, Status
from export_pipeline.requests.rows import table

MINUTE, HOUR, DAY = 60, 3600, 86_400
DURATIONS = (1, 5, 15, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 4 * HOUR, DAY, 7 * DAY)
"""The upper bounds of the buckets, in seconds."""
SIZES = tuple(10**digits for digits in range(4, 13))
"""In bytes."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many values lie in each bucket, the last one being what is above all bounds, and their sum."""

    counts: Sequence[int]
    sum: float


@dataclass(frozen=True, slots=True)
class RequestFigures:
    """All by kind of request; a kind of which there are none is missing."""

    by_status: Mapping[tuple[str, Status], int]
    durations: Mapping[str, Distribution]
    """In seconds, from the beginning of the last attempt to the end, of those that were completed."""
    sizes: Mapping[str, Distribution]
    """In bytes, of what those made."""
    oldest_pending: Mapping[str, datetime]
    """When it was asked for."""
    overdue: Mapping[str, int]
    """Pending or running, and due before now."""


def request_figures(engine: Engine, now: datetime) -> RequestFigures:
    """Return the figures as they are at the moment."""
    with database_errors(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        seconds = _seconds(connection)
        return RequestFigures(
            by_status={
                (row.kind, row.status): row.requests
                for row in connection.execute(
                    select(table.kind, table.status, func.count().label("requests")).group_by(table.kind, table.status)
                )
            },
            durations=_distributions(connection, seconds, DURATIONS, table.started_at.is_not(None)),
            sizes=_distributions(connection, table.result_bytes, SIZES, table.result_bytes.is_not(None)),
            oldest_pending=_by_kind(connection, func.min(table.requested_at), table.status == "pending"),
            overdue=_by_kind(connection, func.count(), table.status.in_(LIVE), table.due_at < now),
        )


def bucket_of(value: ColumnElement[Any], bounds: Sequence[float]) -> ColumnElement[int]:
    """Return the number of the bucket that a value lies in; a value on a bound lies below it."""
    return case(*((value <= bound, number) for number, bound in enumerate(bounds)), else_=len(bounds))


def _distributions(
    connection: Connection, value: ColumnElement[Any], bounds: Sequence[float], *where: ColumnElement[bool]
) -> dict[str, Distribution]:
    made = select(table.kind, value.label("value")).where(table.status.in_(["completed", "expired"]), *where)
    # Materialized, so that a value is computed once, and not again for each bound that it is compared with.
    values = made.cte("made").prefix_with("MATERIALIZED").c
    bucket = bucket_of(values.value, bounds).label("bucket")
    query = select(values.kind, bucket, func.count().label("requests"), func.sum(values.value).label("sum")).group_by(
        values.kind, bucket
    )
    counts: dict[str, Counter[int]] = {}
    sums: Counter[str] = Counter()
    for row in connection.execute(query):
        counts.setdefault(row.kind, Counter())[row.bucket] = row.requests
        sums[row.kind] += float(row.sum)  # type: ignore[assignment]
    return {
        kind: Distribution([found[number] for number in range(len(bounds) + 1)], sums[kind])
        for kind, found in counts.items()
    }


def _by_kind(connection: Connection, value: ColumnElement[Any], *where: ColumnElement[bool]) -> dict[str, Any]:
    query = select(table.kind, value.label("value")).where(*where).group_by(table.kind)
    return {row.kind: row.value for row in connection.execute(query)}


def _seconds(connection: Connection) -> ColumnElement[Any]:
    """Return how long a request took; never less than 0, though clocks may have jumped."""
    if connection.dialect.name == "sqlite":  # which counts in days, to a few hundredths of a millisecond
        days = func.julianday(table.finished_at) - func.julianday(table.started_at)
        return func.max(func.round(days * DAY, 3), 0.0)
    return func.greatest(extract("epoch", table.finished_at) - extract("epoch", table.started_at), 0)
