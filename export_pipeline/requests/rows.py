"""What all changes of the requests table are made of: transactions, fences, locks, and the entries in the history."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, Update, insert, select, update

from export_pipeline.errors import StaleRequestError
from export_pipeline.requests.database import database_errors
from export_pipeline.requests.models import Request, Status
from export_pipeline.requests.schema import export_requests, request_events

PIPELINE = "pipeline"
"""The actor of what nobody asked for in person."""

table = export_requests.c
COLUMNS = tuple(export_requests.c[field.name] for field in fields(Request))
_CHUNK = 500  # SQLite takes a bounded number of parameters in one statement


class Rows:
    """The requests table, as its readers and writers share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        # Readers take no write lock, see database.py.
        with database_errors(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with database_errors(), self._engine.begin() as connection:
            yield connection

    def _select(self, *where: Any, order: Sequence[Any] = (), limit: int | None = None) -> list[Request]:
        query = select(*COLUMNS).where(*where).order_by(*order).limit(limit)
        with self._reading() as connection:
            return requests_in(connection, query)


def requests_in(connection: Connection, query: Select[Any]) -> list[Request]:
    """Return the requests that a query for all of COLUMNS finds."""
    return [Request(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001  # SQLAlchemy's public name


def locked(*where: ColumnElement[bool]) -> Select[Any]:
    """Return the query for rows that this transaction is about to change.

    PostgreSQL locks them, in the order of their ids, so that two writers of several rows never wait for each other
    in a circle; on SQLite the transaction has locked all.
    """
    return select(*COLUMNS).where(*where).order_by(table.id).with_for_update()


def running_in(batch_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the fence of all that a worker changes: a claim makes a new batch id, which shuts former workers out."""
    return table.batch_id == batch_id, table.status == "running"


def change(connection: Connection, request_ids: Sequence[str], **values: Any) -> None:
    """Change rows that this transaction has locked."""
    for ids in chunks(request_ids):
        connection.execute(update(export_requests).where(table.id.in_(ids)).values(updated_at=now(), **values))


def change_one(connection: Connection, statement: Update, request_id: str, expected: Status) -> None:
    """Execute a change of one row. Raises StaleRequestError where its fence kept it out."""
    if connection.execute(statement).rowcount != 1:
        raise StaleRequestError(f"request {request_id} is not '{expected}' any more")


def record(
    connection: Connection, request_ids: Iterable[str], event: str, actor: str, detail: str | None = None
) -> None:
    """Add an event to the history of each request; ``detail`` never names a person."""
    at = now()
    rows = [
        {"request_id": request_id, "at": at, "actor": actor, "event": event, "detail": detail}
        for request_id in request_ids
    ]
    if rows:
        connection.execute(insert(request_events), rows)


def may_be_id(text: str) -> bool:
    """Tell whether ``text`` can be put to a database: half of a surrogate pair, for instance, not every one takes."""
    return text.isascii() and text.isprintable()


def chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    """Cut ids into as many as one statement takes."""
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)
