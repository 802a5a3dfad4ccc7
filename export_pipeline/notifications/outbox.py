"""The outbox: who is to be told of which request, and each change of a notification's state as one transaction.

A notification is ``waiting`` until its request has ended and its time has come. A sender claims it (``claimed``), and
says so just before the step that cannot be taken back (``sending``). It ends as ``sent``, ``failed``, ``unknown``
(its sender ended in that step) or ``dropped`` (there is nothing to tell any more), and then forgets its address.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, insert, or_, select, update

from export_pipeline.errors import BadInputError, UnknownRequestError
from export_pipeline.notifications.faults import StaleNotificationError
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.models import Request
from export_pipeline.requests.rows import (
    COLUMNS,
    PIPELINE,
    Rows,
    locked,
    may_be_id,
    now,
    record,
    requests_in,
    table,
)
from export_pipeline.requests.schema import export_requests, notifications

Channel = Literal["mail", "webhook"]
State = Literal["waiting", "claimed", "sending", "sent", "failed", "unknown", "dropped"]

MOST_FOR_ONE_REQUEST = 20
"""Notifications: enough for all who join a request, too few to flood anybody."""

DELAYS = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 240, 240, 240, 240, 240))
"""The waits between attempts: some 23 hours in all, which outlast a night and a receiver's bad day."""

SENDER_IS_DEAD_AFTER = timedelta(minutes=5)
"""A sender takes a minute at most between two changes of state; see ``smtp`` and ``webhook``."""

_of = notifications.c
_can_be_sent = and_(_of.status == "waiting", _of.address.is_not(None))  # without: its person was forgotten


@dataclass(frozen=True, slots=True)
class Notification:
    """A row of the outbox."""

    id: str
    """A UUID; the Message-ID of its mail and the delivery id of its webhook, the same for each attempt."""
    request_id: str
    channel: Channel
    address: str | None = field(repr=False)  # whom it names is nothing for logs
    status: State
    attempts: int
    not_before: datetime | None
    created_at: datetime
    updated_at: datetime
    error: str | None


_COLUMNS = tuple(notifications.c[column.name] for column in fields(Notification))


@dataclass(frozen=True, slots=True)
class Claim:
    """A notification that one sender holds, and its request as it was at that moment."""

    notification: Notification
    request: Request


def retry_at(attempts: int, moment: datetime) -> datetime | None:
    """Return when to try again after that many attempts, the last one at ``moment``; None: never."""
    return moment + DELAYS[attempts - 1] if attempts <= len(DELAYS) else None


class NotificationStore(Rows):
    """The outbox, beside the requests table."""

    def add(self, request_id: str, channel: Channel, address: str) -> Notification:
        """Have ``address`` told when the request has completed or failed for good.

        An address that the request is yet to tell is not added twice. Raises UnknownRequestError, and BadInputError
        where the request has too many notifications; see ``addresses`` for what an address has to be.
        """
        with self._writing() as connection:
            # The request's lock makes those who add to it take turns.
            if not may_be_id(request_id) or not requests_in(connection, locked(table.id == request_id)):
                raise UnknownRequestError(
                    "no request has this Export ID; 'export-pipeline status' lists the latest ones"
                )
            present = _select(connection, _of.request_id == request_id)
            for other in present:
                if (other.channel, other.address) == (channel, address):
                    return other
            if len(present) >= MOST_FOR_ONE_REQUEST:
                raise BadInputError(f"request {request_id} has {len(present)} notifications; no more are allowed")
            at = now()
            row = Notification(new_id(), request_id, channel, address, "waiting", 0, None, at, at, None)
            connection.execute(insert(notifications), {name.name: getattr(row, name.name) for name in fields(row)})
        return row

    def of_request(self, request_id: str) -> list[Notification]:
        """Return a request's notifications, the oldest first."""
        with self._reading() as connection:
            return _select(connection, _of.request_id == request_id) if may_be_id(request_id) else []

    def due(self, moment: datetime, limit: int) -> list[Notification]:
        """Return up to ``limit`` whose request has ended and whose time has come.

        New ones are ahead of those that wait for a receiver which has failed before.
        """
        query = (
            select(*_COLUMNS)
            .join(export_requests, table.id == _of.request_id)
            .where(_can_be_sent, or_(_of.not_before.is_(None), _of.not_before <= moment), _has_news(moment))
            .order_by(_of.attempts, _of.id)
            .limit(limit)
        )
        with self._reading() as connection:
            return [Notification(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001  # public name

    def claim(self, notification_id: str, moment: datetime) -> Claim | None:
        """Take a waiting notification; None where another sender was faster, or its request has no news any more."""
        with self._writing() as connection:
            taken = connection.execute(
                update(notifications)
                .where(
                    _of.id == notification_id,
                    _can_be_sent,
                    _of.request_id.in_(select(table.id).where(_has_news(moment))),
                )
                .values(status="claimed", attempts=_of.attempts + 1, not_before=None, updated_at=moment)
                .returning(*_COLUMNS)
            ).first()
            if taken is None:
                return None
            claimed = Notification(**taken._mapping)  # noqa: SLF001  # SQLAlchemy's public name
            (request,) = requests_in(connection, select(*COLUMNS).where(table.id == claimed.request_id))
        return Claim(claimed, request)

    def sending(self, claim: Claim) -> None:
        """Note that the step which cannot be taken back comes next. Raises StaleNotificationError: then leave it."""
        with self._writing() as connection:
            _move(connection, claim.notification, ("claimed",), _of.address.is_not(None), status="sending")

    def sent(self, claim: Claim) -> None:
        """Note that it was accepted."""
        with self._writing() as connection:
            _end(connection, claim.notification, ("sending", "unknown"), "sent", None)

    def not_delivered(self, claim: Claim, reason: str, moment: datetime) -> State:
        """Note that it was not accepted; return ``waiting`` where it is tried again, else ``failed``."""
        with self._writing() as connection:
            return _try_again(connection, claim.notification, ("claimed", "sending"), reason, moment)

    def failed(self, claim: Claim, reason: str) -> None:
        """Note that it never will be accepted."""
        with self._writing() as connection:
            _end(connection, claim.notification, ("claimed", "sending"), "failed", reason)

    def unknown(self, claim: Claim, reason: str) -> None:
        """Note that nobody knows whether it was accepted; it is not sent again."""
        with self._writing() as connection:
            _end(connection, claim.notification, ("sending", "unknown"), "unknown", reason)

    def settle(self, moment: datetime) -> list[Notification]:
        """End what dead senders left, and drop what there is nothing to tell of; return those changed, as they were.

        What a sender had claimed and not begun to hand over is tried again.
        """
        dead = and_(_of.status.in_(("claimed", "sending")), _of.updated_at < moment - SENDER_IS_DEAD_AFTER)
        over = or_(_of.address.is_(None), _of.request_id.in_(select(table.id).where(_never_has_news(moment))))
        unsettled = or_(dead, and_(_of.status == "waiting", over))
        with self._reading() as connection:
            if not _select(connection, unsettled):
                return []  # as nearly always, and then without a lock
        with self._writing() as connection:
            found = _select(connection, unsettled, lock=True)
            for one in found:
                if one.status == "waiting":
                    _move(connection, one, ("waiting",), status="dropped", address=None)
                elif one.status == "sending":
                    reason = "its sender ended before it noted the answer"
                    _end(connection, one, ("sending",), "unknown", reason)
                else:
                    _try_again(connection, one, ("claimed",), "its sender ended before it handed it over", moment)
        return found


def _has_news(moment: datetime) -> ColumnElement[bool]:
    still_there = and_(table.status == "completed", or_(table.expires_at.is_(None), table.expires_at > moment))
    return or_(table.status == "failed", still_there)


def _never_has_news(moment: datetime) -> ColumnElement[bool]:
    expired = and_(table.status == "completed", table.expires_at <= moment)
    return or_(table.status.in_(("cancelled", "expired")), expired)


def _select(connection: Connection, where: ColumnElement[bool], *, lock: bool = False) -> list[Notification]:
    query = select(*_COLUMNS).where(where).order_by(_of.id)
    if lock:
        query = query.with_for_update(skip_locked=True)
    return [Notification(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001  # public name


def _try_again(
    connection: Connection, one: Notification, expected: Sequence[State], reason: str, moment: datetime
) -> State:
    again = retry_at(one.attempts, moment)
    if again is None:
        _end(connection, one, expected, "failed", reason)
        return "failed"
    _move(connection, one, expected, status="waiting", not_before=again, error=reason)
    return "waiting"


def _end(
    connection: Connection,
    one: Notification,
    expected: Sequence[State],
    state: Literal["sent", "failed", "unknown"],
    reason: str | None,
) -> None:
    _move(connection, one, expected, status=state, address=None, error=reason)
    event = {"sent": "notified", "failed": "notification_failed", "unknown": "notification_unknown"}[state]
    record(connection, [one.request_id], event, PIPELINE, f"{one.channel}: {reason}" if reason else one.channel)


def _move(
    connection: Connection,
    one: Notification,
    expected: Sequence[State],
    *fences: ColumnElement[bool],
    **values: Any,
) -> None:
    # The number of the attempt keeps out a sender that was taken for dead and woke up.
    statement = (
        update(notifications)
        .where(_of.id == one.id, _of.status.in_(expected), _of.attempts == one.attempts, *fences)
        .values(updated_at=now(), **values)
    )
    if connection.execute(statement).rowcount != 1:
        raise StaleNotificationError(f"notification {one.id} is not this sender's any more")
