"""Reading the requests table. Nothing here changes a row."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select

from export_pipeline.errors import UnknownRequestError
from export_pipeline.requests.models import LIVE, USER_EXPORT, Request, Status
from export_pipeline.requests.rows import Rows, may_be_id, now, table
from export_pipeline.requests.schema import request_events


class RequestReader(Rows):
    """What is asked of the table."""

    def get(self, request_id: str) -> Request:
        """Return a request. Raises UnknownRequestError."""
        found = self._select(table.id == request_id) if may_be_id(request_id) else []
        if not found:
            raise UnknownRequestError("no request has this Export ID; 'export-pipeline status' lists the latest ones")
        return found[0]

    def pending(self, limit: int, kind: str = USER_EXPORT) -> list[Request]:
        """Return up to ``limit`` pending requests of a kind whose time has come, the most urgent first."""
        return self._select(
            table.kind == kind,
            table.status == "pending",
            _time_has_come(now()),
            order=(table.priority.desc(), table.due_at, table.id),
            limit=limit,
        )

    def latest(self, limit: int = 20) -> list[Request]:
        """Return the newest requests first."""
        return self._select(order=(table.id.desc(),), limit=limit)

    def page(
        self,
        *,
        kind: str,
        limit: int,
        app_id: str | None = None,
        status: Status | None = None,
        since: datetime | None = None,
        before: str | None = None,
    ) -> list[Request]:
        """Return requests of one kind, the newest first: those older than the request ``before``.

        Only those of an app, in a state, or made at ``since`` or later, where these are given.
        """
        where = [table.kind == kind]
        where += [] if app_id is None else [table.app_id == app_id]
        where += [] if status is None else [table.status == status]
        where += [] if since is None else [table.requested_at >= since]
        where += [] if before is None else [table.id < before]
        return self._select(*where, order=(table.id.desc(),), limit=limit)

    def of_batch(self, batch_id: str) -> list[Request]:
        """Return the requests of a batch, whatever their state, in the order of their ids."""
        return self._select(table.batch_id == batch_id, order=(table.id,))

    def running(self) -> list[Request]:
        """Return all requests that say they run."""
        return self._select(table.status == "running", order=(table.id,))

    def live_batches(self) -> set[str]:
        """Return the ids of the batches that have running requests."""
        query = select(table.batch_id).where(table.status == "running").distinct()
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def unstarted_batches(self, kind: str = USER_EXPORT) -> dict[str, int]:
        """Return the attempt of each batch of a kind that was claimed and that no run has begun yet, by batch id."""
        query = (
            select(table.batch_id, func.max(table.attempt).label("attempt"))
            .where(table.kind == kind, table.status == "running", table.run_id.is_(None))
            .group_by(table.batch_id)
            .order_by(table.batch_id)
        )
        with self._reading() as connection:
            return {row.batch_id: row.attempt for row in connection.execute(query)}

    def expired(self, now: datetime, limit: int = 1000) -> list[Request]:
        """Return completed requests whose time is over, the oldest first."""
        return self._select(table.status == "completed", table.expires_at <= now, order=(table.id,), limit=limit)

    def due_before(self, moment: datetime) -> list[Request]:
        """Return the live requests that are due before ``moment``, the most urgent first."""
        return self._select(table.status.in_(LIVE), table.due_at < moment, order=(table.due_at, table.id))

    def of_app(self, app_id: str) -> list[Request]:
        """Return all requests of an app."""
        return self._select(table.app_id == app_id, order=(table.id,))

    def known(self, request_ids: list[str]) -> dict[str, Request]:
        """Return, by id, those of the requests that there are."""
        return {request.id: request for request in self._select(table.id.in_(request_ids))}

    def events(self, request_id: str) -> list[Mapping[str, Any]]:
        """Return a request's history, the oldest event first: ``at``, ``actor``, ``event``, ``detail``."""
        query = select(request_events).where(request_events.c.request_id == request_id).order_by(request_events.c.id)
        with self._reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001  # SQLAlchemy's public name


def _time_has_come(moment: datetime) -> ColumnElement[bool]:
    # A row that was changed in the future tells of a clock that has jumped back since: its delay says nothing.
    return or_(table.not_before.is_(None), table.not_before <= moment, table.updated_at > moment)
