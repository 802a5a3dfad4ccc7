"""Each change of a request's state: one transaction that names the state it expects, with its event in the history.

Losing a race is not an error where several writers do the same (claiming); acting on a stale state is one, and
raises StaleRequestError.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sqlalchemy import Connection, Engine, Update, func, insert, select, update

from export_pipeline.errors import StaleRequestError, UnknownRequestError
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.database import database_errors, open_database
from export_pipeline.requests.models import NewRequest, Request, Status
from export_pipeline.requests.schema import export_requests, request_events
from export_pipeline.requests.secrets import SecretStore, forget_secrets, keep_secret

DUE_AFTER = timedelta(days=30)
"""GDPR article 12(3): without undue delay, and within one month."""

HERE = "here"
"""The ``run_id`` of a request whose submitter does the work itself, without Dagster."""

_table = export_requests.c
_CHUNK = 500  # SQLite takes a bounded number of parameters in one statement


class RequestStore:
    """The requests table, open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.secrets = SecretStore(engine)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the table at a SQLAlchemy URL, migrating it if needed."""
        return cls(open_database(url))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # Reading

    def get(self, request_id: str) -> Request:
        """Return a request. Raises UnknownRequestError."""
        # Text that is no id, such as half of a surrogate pair, is not put to the database: not every one takes it.
        found = self._select(_table.id == request_id) if request_id.isascii() and request_id.isprintable() else []
        if not found:
            raise UnknownRequestError("no request has this Export ID; 'export-pipeline status' lists the latest ones")
        return found[0]

    def pending(self, limit: int) -> list[Request]:
        """Return up to ``limit`` pending requests, the most urgent first."""
        return self._select(
            _table.status == "pending", order=(_table.priority.desc(), _table.due_at, _table.id), limit=limit
        )

    def latest(self, limit: int = 20) -> list[Request]:
        """Return the newest requests first."""
        return self._select(order=(_table.id.desc(),), limit=limit)

    def of_batch(self, batch_id: str) -> list[Request]:
        """Return the requests of a batch, whatever their state, in the order of their ids."""
        return self._select(_table.batch_id == batch_id, order=(_table.id,))

    def running(self) -> list[Request]:
        """Return all requests that say they run."""
        return self._select(_table.status == "running", order=(_table.id,))

    def unstarted_batches(self) -> dict[str, int]:
        """Return the attempt of each batch that was claimed and that no run has begun yet, by batch id."""
        query = (
            select(_table.batch_id, func.max(_table.attempt).label("attempt"))
            .where(_table.status == "running", _table.run_id.is_(None))
            .group_by(_table.batch_id)
            .order_by(_table.batch_id)
        )
        with database_errors(), self._reading() as connection:
            return {row.batch_id: row.attempt for row in connection.execute(query)}

    def expired(self, now: datetime, limit: int = 1000) -> list[Request]:
        """Return completed requests whose time is over."""
        return self._select(_table.status == "completed", _table.expires_at <= now, limit=limit)

    def events(self, request_id: str) -> list[Mapping[str, Any]]:
        """Return a request's history, the oldest event first: ``at``, ``actor``, ``event``, ``detail``."""
        query = select(request_events).where(request_events.c.request_id == request_id).order_by(request_events.c.id)
        with database_errors(), self._reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001  # SQLAlchemy's public name

    # Changes of state

    def submit(self, new: NewRequest, *, run_here: bool = False, sealed_passphrase: str | None = None) -> Request:
        """Insert a request as ``pending``; with ``run_here`` as ``running``, in a batch of its own.

        The latter is for a caller that does the work itself: no sensor ever sees the request as pending. A passphrase
        is kept until the request has completed.
        """
        now = _now()
        row: dict[str, Any] = {
            "id": new_id(),
            "kind": "user_export",
            "app_id": new.app_id,
            "selection": new.selection,
            "options": new.options,
            "status": "pending",
            "attempt": 0,
            "priority": 0,
            "requested_by": new.requested_by,
            "requested_at": now,
            "due_at": now + DUE_AFTER,
            "updated_at": now,
            "documents_done": 0,
            "bytes_written": 0,
        }
        if run_here:
            row |= {"status": "running", "attempt": 1, "batch_id": new_id(), "run_id": HERE, "started_at": now}
        with database_errors(), self._engine.begin() as connection:
            connection.execute(insert(export_requests), row)
            if sealed_passphrase is not None:
                keep_secret(connection, row["id"], sealed_passphrase)
            _record(connection, [row["id"]], "submitted", new.requested_by)
            if run_here:
                _record(connection, [row["id"]], "claimed", new.requested_by)
        return self.get(row["id"])

    def claim(self, batch: Batch) -> list[str]:
        """Move the batch's requests from ``pending`` to ``running``; return the ids of those that this call moved."""
        now = _now()
        claimed: list[str] = []
        with database_errors(), self._engine.begin() as connection:
            for ids in _chunks(batch.request_ids):
                claimed += connection.execute(
                    update(export_requests)
                    .where(_table.id.in_(ids), _table.status == "pending")
                    .values(
                        status="running",
                        batch_id=batch.id,
                        attempt=_table.attempt + 1,
                        started_at=now,
                        updated_at=now,
                        run_id=None,
                        finished_at=None,
                        error_code=None,
                        error_message=None,
                        documents_done=0,
                        documents_total=None,
                        bytes_written=0,
                    )
                    .returning(_table.id)
                ).scalars()
            _record(connection, claimed, "claimed", "sensor", f"batch {batch.id}")
        return claimed

    def attach_run(self, batch_id: str, run_id: str) -> int:
        """Note which run serves the batch's running requests; return how many those are."""
        with database_errors(), self._engine.begin() as connection:
            return connection.execute(
                update(export_requests)
                .where(_table.batch_id == batch_id, _table.status == "running")
                .values(run_id=run_id, updated_at=_now())
            ).rowcount

    def expire(self, request_id: str) -> None:
        """Record that a package's time is over. Raises StaleRequestError unless the row is still ``completed``."""
        with database_errors(), self._engine.begin() as connection:
            done = connection.execute(
                update(export_requests)
                .where(_table.id == request_id, _table.status == "completed")
                .values(status="expired", result_uri=None, updated_at=_now())
            )
            _expect_one(done.rowcount, request_id, "completed")
            _record(connection, [request_id], "expired", "pipeline")

    def retry(self, request_id: str, actor: str) -> None:
        """Put a failed request back to ``pending``. Raises StaleRequestError unless the row is ``failed``."""
        with database_errors(), self._engine.begin() as connection:
            done = connection.execute(
                update(export_requests)
                .where(_table.id == request_id, _table.status == "failed")
                .values(status="pending", updated_at=_now(), finished_at=None)
            )
            _expect_one(done.rowcount, request_id, "failed")
            _record(connection, [request_id], "retried", actor)

    # From here on the batch id fences off a run that was given up: the claim that followed made a new one.

    def set_totals(self, batch_id: str, totals: Mapping[str, int]) -> None:
        """Note how many documents each of the batch's running requests expects."""
        with database_errors(), self._engine.begin() as connection:
            for request_id, total in totals.items():
                connection.execute(_if_running(request_id, batch_id).values(documents_total=total, updated_at=_now()))

    def progress(self, request_id: str, batch_id: str, *, documents_done: int, bytes_written: int) -> None:
        """Note how far a request is. Raises StaleRequestError unless it still runs in this batch."""
        with database_errors(), self._engine.begin() as connection:
            done = connection.execute(
                _if_running(request_id, batch_id).values(
                    documents_done=documents_done, bytes_written=bytes_written, updated_at=_now()
                )
            )
            _expect_one(done.rowcount, request_id, "running")

    def complete(
        self,
        request_id: str,
        batch_id: str,
        *,
        documents: int,
        result_uri: str,
        result_bytes: int,
        result_sha256: str,
        expires_at: datetime | None,
    ) -> None:
        """Record a published package. Raises StaleRequestError unless the request still runs in this batch."""
        self._finish(
            request_id,
            batch_id,
            "completed",
            documents_done=documents,
            documents_total=documents,
            bytes_written=result_bytes,
            result_uri=result_uri,
            result_bytes=result_bytes,
            result_sha256=result_sha256,
            expires_at=expires_at,
        )

    def fail(self, request_id: str, batch_id: str, *, code: str, message: str) -> None:
        """Record why a request failed. Raises StaleRequestError unless it still runs in this batch."""
        self._finish(request_id, batch_id, "failed", detail=code, error_code=code, error_message=message)

    def _finish(
        self, request_id: str, batch_id: str, status: Status, *, detail: str | None = None, **values: Any
    ) -> None:
        now = _now()
        with database_errors(), self._engine.begin() as connection:
            done = connection.execute(
                _if_running(request_id, batch_id).values(status=status, finished_at=now, updated_at=now, **values)
            )
            _expect_one(done.rowcount, request_id, "running")
            _record(connection, [request_id], status, "pipeline", detail)
            if status == "completed":
                forget_secrets(connection, [request_id])

    def _reading(self) -> Connection:
        # Readers take no write lock, see database.py.
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def _select(self, *where: Any, order: Sequence[Any] = (), limit: int | None = None) -> list[Request]:
        query = select(export_requests).where(*where).order_by(*order).limit(limit)
        with database_errors(), self._reading() as connection:
            return [Request(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001  # as above


def _if_running(request_id: str, batch_id: str) -> Update:
    return update(export_requests).where(
        _table.id == request_id, _table.batch_id == batch_id, _table.status == "running"
    )


def _record(
    connection: Connection, request_ids: Iterable[str], event: str, actor: str, detail: str | None = None
) -> None:
    rows = [
        {"request_id": request_id, "at": _now(), "actor": actor, "event": event, "detail": detail}
        for request_id in request_ids
    ]
    if rows:
        connection.execute(insert(request_events), rows)


def _expect_one(changed: int, request_id: str, expected: Status) -> None:
    if changed != 1:
        raise StaleRequestError(f"request {request_id} is not '{expected}' any more")


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def _now() -> datetime:
    return datetime.now(UTC)
