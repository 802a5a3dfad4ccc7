"""Counters by day and app: how much is asked for and handed over. They name no person and no token."""

from collections import Counter
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, literal, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from export_pipeline.requests.database import database_errors
from export_pipeline.requests.schema import daily_usage

CALLS = "calls"
REFUSALS = "refusals"
EXPORTS_REQUESTED = "exports_requested"
DOWNLOADS = "downloads"
DOWNLOADED_BYTES = "downloaded_bytes"
BACKUPS_REQUESTED = "backups_requested"
EVENTS_READ = "events_read"

_columns = daily_usage.c


class Counted(NamedTuple):
    """What is counted: something in an app on a day, in UTC."""

    day: date
    app_id: str
    what: str


def today(app_id: str, what: str) -> Counted:
    """Return the counter of today."""
    return Counted(datetime.now(UTC).date(), app_id, what)


def add_counts(connection: Connection, counts: Counter[Counted]) -> None:
    """Add to the counters within a transaction."""
    new = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = new(daily_usage)
    statement = row.on_conflict_do_update(
        index_elements=[_columns.day, _columns.app_id, _columns.what],
        set_={"count": _columns["count"] + row.excluded["count"]},
    )
    # Sorted, so that two writers of several counters never wait for each other in a circle.
    rows = [{**counted._asdict(), "count": count} for counted, count in sorted(counts.items())]
    if rows:
        connection.execute(statement, rows)


def usage(
    engine: Engine,
    *,
    since: date,
    until: date,
    app_id: str | None = None,
    after: Counted | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Return the counters from one day to another, both included: ``day``, ``app_id``, ``what``, ``count``.

    Those of an app, or of all; up to ``limit`` that follow the counter ``after``.
    """
    key = (_columns.day, _columns.app_id, _columns.what)
    where = [_columns.day.between(since, until), *([] if app_id is None else [_columns.app_id == app_id])]
    where += [] if after is None else [tuple_(*key) > tuple_(*(literal(value) for value in after))]
    query = select(daily_usage).where(*where).order_by(*key).limit(limit)
    with database_errors(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
