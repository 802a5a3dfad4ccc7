"""How a request gets into the table: as a new row, or as one more that wants what a row already stands for."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from export_pipeline.errors import BadInputError
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.database import RequestsDatabaseError, database_errors
from export_pipeline.requests.lifecycle import DUE_AFTER
from export_pipeline.requests.models import LIVE, USER_EXPORT, NewRequest, Request
from export_pipeline.requests.reading import RequestReader
from export_pipeline.requests.rows import COLUMNS, now, record, requests_in, table
from export_pipeline.requests.schema import export_requests
from export_pipeline.requests.secrets import keep_secret

HERE = "here"
"""The ``run_id`` of a request whose submitter does the work itself, without Dagster."""

_MOST_RACES = 10


class IdempotencyConflictError(BadInputError):
    """The idempotency key belongs to a request with another content."""

    code = "idempotency_conflict"


class Submissions(RequestReader):
    """Making requests."""

    def submit(self, new: NewRequest, *, run_here: bool = False, sealed_passphrase: str | None = None) -> Request:
        """Insert a request as ``pending``; with ``run_here`` as ``running``, in a batch of its own.

        The latter is for a caller that does the work itself: no sensor ever sees the request as pending. A passphrase
        is kept until the request has completed.

        A repetition, by its idempotency key, returns the row of the first time. A request for the same thing as one
        that is pending or running joins it: it returns that row. Those with a passphrase or ``run_here`` never join,
        nor does anybody join them. Raises IdempotencyConflictError.
        """
        if run_here and new.idempotency_key is not None:
            raise BadInputError("idempotency key: there is none for an export that is made right here")
        joins = not run_here and sealed_passphrase is None
        row = _row(new, run_here=run_here) | {"fingerprint": new.fingerprint if joins else None}
        with database_errors():
            for _ in range(_MOST_RACES):
                try:
                    with self._engine.begin() as connection:
                        return _insert_or_find(connection, new, row, sealed_passphrase)
                except IntegrityError:
                    continue  # another writer was faster: on PostgreSQL its row is seen only now
        raise RequestsDatabaseError("the requests table refused a new row again and again; try again")


def _insert_or_find(
    connection: Connection, new: NewRequest, row: dict[str, Any], sealed_passphrase: str | None
) -> Request:
    repeated = _repeated(connection, new)
    if repeated is not None:
        return repeated
    joined = _live_equal(connection, row["fingerprint"])
    if joined is not None:
        record(connection, [joined.id], "joined", new.requested_by)
        return joined
    if sealed_passphrase is not None:
        keep_secret(connection, row["id"], sealed_passphrase)
    return insert_row(connection, row)


def _repeated(connection: Connection, new: NewRequest) -> Request | None:
    if new.idempotency_key is None:
        return None
    same_key = (table.app_id == new.app_id, table.idempotency_key == new.idempotency_key)
    found = next(iter(requests_in(connection, select(*COLUMNS).where(*same_key))), None)
    if found is not None and not new.asks_for_what(found):
        raise IdempotencyConflictError(
            f"this idempotency key belongs to request {found.id}, which asks for something else; use a new key"
        )
    return found


def _live_equal(connection: Connection, fingerprint: str | None) -> Request | None:
    # Locked, so that it is still live when the caller reads that it has joined.
    query = select(*COLUMNS).where(
        table.fingerprint == fingerprint, table.fingerprint.is_not(None), table.status.in_(LIVE)
    )
    return next(iter(requests_in(connection, query.with_for_update())), None)


def _row(new: NewRequest, *, run_here: bool) -> dict[str, Any]:
    row = new_row(USER_EXPORT, new.app_id, new.options, new.requested_by, new.idempotency_key, run_here=run_here)
    due_at = row["requested_at"] + DUE_AFTER
    return row | {"selection": new.selection, "due_at": due_at, "keep_seconds": new.keep_seconds}


def new_row(
    kind: str,
    app_id: str,
    options: Mapping[str, Any],
    requested_by: str,
    idempotency_key: str | None,
    *,
    run_here: bool,
) -> dict[str, Any]:
    """Return the columns of a new row of any kind; with ``run_here``, of one that its submitter works on."""
    at = now()
    row = {
        "id": new_id(),
        "kind": kind,
        "app_id": app_id,
        "selection": {},
        "options": dict(options),
        "status": "pending",
        "attempt": 0,
        "priority": 0,
        "requested_by": requested_by,
        "requested_at": at,
        "updated_at": at,
        "documents_done": 0,
        "bytes_written": 0,
        "idempotency_key": idempotency_key,
    }
    if run_here:
        row |= {"status": "running", "attempt": 1, "batch_id": new_id(), "run_id": HERE, "started_at": at}
    return row


def insert_row(connection: Connection, row: Mapping[str, Any]) -> Request:
    """Insert a row and begin its history; return the request."""
    connection.execute(insert(export_requests), row)
    record(connection, [row["id"]], "submitted", row["requested_by"])
    if row["status"] == "running":
        record(connection, [row["id"]], "claimed", row["requested_by"])
    return requests_in(connection, select(*COLUMNS).where(table.id == row["id"]))[0]
