"""The changes of state outside a batch's work: cancelling, retrying, due dates, expiry, and forgetting people."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from export_pipeline.errors import BadInputError, StaleRequestError, UnknownRequestError
from export_pipeline.requests.models import LIVE, Request
from export_pipeline.requests.reading import RequestReader
from export_pipeline.requests.rows import (
    PIPELINE,
    change,
    change_one,
    locked,
    may_be_id,
    now,
    record,
    requests_in,
    table,
)
from export_pipeline.requests.schema import export_requests, kept_secrets, notifications, request_events
from export_pipeline.requests.secrets import forget_secrets

DUE_AFTER = timedelta(days=30)
"""GDPR article 12(3): without undue delay, and within one month."""

LATEST_DUE = timedelta(days=90)
"""The same: extended by two further months at most, with the reasons."""

LONGEST_REASON = 1000


class Lifecycle(RequestReader):
    """The changes that people and schedules make."""

    def cancel(self, request_id: str, actor: str) -> Request:
        """Cancel a pending or running request and forget its passphrase; return it as it was before.

        Its worker, if it has one, is refused from now on. Raises StaleRequestError if it has finished.
        """
        with self._writing() as connection:
            request = _the_one(connection, request_id)
            if not request.is_live:
                raise StaleRequestError(f"request {request_id} is {request.status}; only a live one can be cancelled")
            change(connection, [request_id], status="cancelled", finished_at=now(), lease_until=None, progress=None)
            forget_secrets(connection, [request_id])
            record(connection, [request_id], "cancelled", actor)
        return request

    def retry(self, request_id: str, actor: str) -> None:
        """Put a failed request back to ``pending``, with all its automatic retries.

        Raises StaleRequestError unless it is ``failed``; BadInputError where an equal request is live by now, or
        where what it needs has been forgotten.
        """
        statement = (
            update(export_requests)
            .where(table.id == request_id, table.status == "failed")
            .values(status="pending", updated_at=now(), finished_at=None, not_before=None, retries=0)
        )
        with self._writing() as connection:
            request = _the_one(connection, request_id)
            if request.status == "failed":
                _refuse_what_is_not_at_hand(connection, request)
            try:
                change_one(connection, statement, request_id, "failed")
            except IntegrityError:
                raise BadInputError(
                    f"a request for the same as {request_id} is pending or running; follow that one"
                ) from None
            record(connection, [request_id], "retried", actor)

    def expire(self, request_id: str, actor: str = PIPELINE, *, event: str = "expired") -> None:
        """Record that a package is gone. Raises StaleRequestError unless the row is still ``completed``."""
        with self._writing() as connection:
            statement = (
                update(export_requests)
                .where(table.id == request_id, table.status == "completed")
                .values(status="expired", result_uri=None, updated_at=now())
            )
            change_one(connection, statement, request_id, "completed")
            record(connection, [request_id], event, actor)

    def extend_due(self, request_id: str, until: datetime, reason: str, actor: str) -> None:
        """Give a live request a later due date, of which its person has to be told.

        Raises BadInputError for a date that is no later one or too late, or without a reason; StaleRequestError
        if the request has finished.
        """
        if not reason.strip() or len(reason) > LONGEST_REASON:
            raise BadInputError(f"reason: say in 1 to {LONGEST_REASON} characters why the request takes longer")
        with self._writing() as connection:
            request = _the_one(connection, request_id)
            if not request.is_live:
                raise StaleRequestError(f"request {request_id} is {request.status}; only a live one has a due date")
            latest = request.requested_at + LATEST_DUE
            if not (request.due_at or request.requested_at) < until <= latest:
                raise BadInputError(
                    f"until: expected a time after the present due date and at most {latest:%Y-%m-%d %H:%M} UTC, "
                    f"{LATEST_DUE.days} days after the request"
                )
            change(connection, [request_id], due_at=until)
            record(connection, [request_id], "due_extended", actor, f"until {until:%Y-%m-%d}: {reason.strip()}")

    def warn_once(self, request: Request, event: str) -> bool:
        """Record that a request is close to or past its due date; False where that date has been warned of."""
        detail = f"due {request.due_at:%Y-%m-%d %H:%M} UTC"
        of = request_events.c
        query = select(of.id).where(of.request_id == request.id, of.event == event, of.detail == detail).limit(1)
        with self._writing() as connection:
            _the_one(connection, request.id)
            if connection.execute(query).first() is not None:
                return False
            record(connection, [request.id], event, PIPELINE, detail)
        return True

    def rewrite_selection(
        self, request_id: str, rewrite: Callable[[Mapping[str, Any]], Mapping[str, Any]], actor: str
    ) -> None:
        """Take people out of a finished request's selection, and forget whom it was to tell; see ``forgetting``."""
        with self._writing() as connection:
            request = _the_one(connection, request_id)
            change(connection, [request_id], selection=dict(rewrite(request.selection)), fingerprint=None)
            forget_secrets(connection, [request_id])
            _forget_addresses(connection, request_id)
            record(connection, [request_id], "forgotten", actor)

    def forget_stale_secrets(self, before: datetime) -> int:
        """Forget what was kept for requests that finished before that moment, and for batches that ended by then.

        Returns how many secrets those were.
        """
        live = select(table.id).where(table.status.in_(LIVE))
        batches = select(table.batch_id).where(table.status == "running", table.batch_id.is_not(None))
        recent = select(table.id).where(table.finished_at >= before)
        with self._writing() as connection:
            return connection.execute(
                kept_secrets.delete().where(
                    kept_secrets.c.kept_at < before,
                    kept_secrets.c.owner.not_in(live),
                    kept_secrets.c.owner.not_in(batches),
                    kept_secrets.c.owner.not_in(recent),
                )
            ).rowcount


def _the_one(connection: Connection, request_id: str) -> Request:
    """Return a request, locked. Raises UnknownRequestError."""
    found = requests_in(connection, locked(table.id == request_id)) if may_be_id(request_id) else []
    if not found:
        raise UnknownRequestError("no request has this Export ID; 'export-pipeline status' lists the latest ones")
    return found[0]


def _forget_addresses(connection: Connection, request_id: str) -> None:
    # Those without an address are not sent any more; see notifications.outbox.
    connection.execute(update(notifications).where(notifications.c.request_id == request_id).values(address=None))


def _refuse_what_is_not_at_hand(connection: Connection, request: Request) -> None:
    if request.selection.get("forgotten"):
        raise BadInputError(f"request {request.id} has forgotten whom it was about; ask for a new export")
    if request.options.get("attended"):
        raise BadInputError(f"{request.kind} {request.id} needs what only its caller has; give the same command again")
    if request.options.get("passphrase"):
        kept = select(kept_secrets.c.owner).where(kept_secrets.c.owner == request.id)
        if connection.execute(kept).first() is None:
            raise BadInputError(f"the passphrase of request {request.id} has been forgotten; ask for a new export")
