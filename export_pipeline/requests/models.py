"""What a request is: its fields, its states, and the checks it passes before it becomes a row."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from export_pipeline.catalog.narrowing import EVERYTHING, Narrowing, parse_narrowing
from export_pipeline.errors import BadInputError

Status = Literal["pending", "running", "completed", "expired", "failed", "cancelled"]
LIVE: frozenset[Status] = frozenset({"pending", "running"})
FINISHED: frozenset[Status] = frozenset({"completed", "expired", "failed", "cancelled"})

ALL_APPS = "*"
"""In place of an app's id: every app."""

USER_EXPORT = "user_export"
"""The kind of a row that asks for a user's export."""

DEFAULT_FORMAT = "json"
DEFAULT_JSON_MODE = "relaxed"
LONGEST_UID = 512
"""In characters; thousands of uids must fit into one query of at most 16 MB."""

LONGEST_ACTOR = 200
LONGEST_KEY = 200
LONGEST_RETENTION = timedelta(days=36_500)
MOST_USERS = 100_000
"""The most people that one request may name; it bounds the plan, which is held in memory."""

_APP_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request for a user's export, checked: making one that is not allowed raises BadInputError.

    It names its people by ``uids``, or by ``person``, a filter on the catalogue's collection of people that may
    find at most ``max_users``.
    """

    app_id: str
    uids: Sequence[str] = field(default=(), repr=False)
    format: str = DEFAULT_FORMAT
    json_mode: str = DEFAULT_JSON_MODE
    requested_by: str = "unknown"
    narrowing: Narrowing = field(default=EVERYTHING, repr=False)
    person: Mapping[str, Any] | None = field(default=None, repr=False)
    max_users: int = 1
    file_options: Mapping[str, Any] = field(default_factory=dict)
    """More about the file; ``formats.protocol.WriteOptions`` has the names."""
    idempotency_key: str | None = None
    """The caller's own name for the request: sent again with the same content, it gives the same request."""
    retention: timedelta | None = None
    """How long the package is kept; None: as the settings say."""

    def __post_init__(self) -> None:
        check_app_id(self.app_id)
        if self.person is None:
            check_uids(self.uids)
        elif self.uids:
            raise BadInputError("give either uids or a filter on the person, not both")
        if len(self.requested_by) > LONGEST_ACTOR:
            raise BadInputError(f"requested by: at most {LONGEST_ACTOR} characters are allowed")
        if type(self.max_users) is not int or not 1 <= self.max_users <= MOST_USERS:
            raise BadInputError(f"max users: expected a whole number from 1 to {MOST_USERS}")
        if self.idempotency_key is not None and not 0 < len(self.idempotency_key) <= LONGEST_KEY:
            raise BadInputError(f"idempotency key: expected 1 to {LONGEST_KEY} characters")
        if self.retention is not None and not timedelta(seconds=1) <= self.retention <= LONGEST_RETENTION:
            raise BadInputError(f"retention: expected a second to {LONGEST_RETENTION.days:,} days")

    @property
    def keep_seconds(self) -> int | None:
        """The request's ``keep_seconds`` column."""
        return None if self.retention is None else int(self.retention.total_seconds())

    @property
    def fingerprint(self) -> str:
        """What two requests for the same thing have in common: a SHA-256, in hex; the order of uids is none of it."""
        selection = self.selection
        if "uids" in selection:
            selection["uids"].sort()
        return hashlib.sha256(_content(self.app_id, selection, self.options, self.keep_seconds).encode()).hexdigest()

    def asks_for_what(self, row: "Request") -> bool:
        """Tell whether ``row`` was made from a request with this content, whoever asked."""
        mine = _content(self.app_id, self.selection, self.options, self.keep_seconds)
        return mine == _content(row.app_id, row.selection, row.options, row.keep_seconds)

    @property
    def selection(self) -> dict[str, Any]:
        """The request's ``selection`` column."""
        if self.person is None:
            who: dict[str, Any] = {"uids": list(dict.fromkeys(self.uids))}
        else:
            who = {"person": dict(self.person), "max_users": self.max_users}
        narrowing = self.narrowing.stored()
        return who | ({"narrowing": narrowing} if narrowing else {})

    @property
    def options(self) -> dict[str, Any]:
        """The request's ``options`` column."""
        return {**self.file_options, "format": self.format, "json_mode": self.json_mode}


@dataclass(frozen=True, slots=True)
class Request:
    """A row of the requests table."""

    id: str
    kind: str
    app_id: str
    selection: Mapping[str, Any] = field(repr=False)  # holds uids, which no log may show
    options: Mapping[str, Any]
    status: Status
    attempt: int
    priority: int
    requested_by: str
    requested_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    updated_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    batch_id: str | None
    run_id: str | None
    documents_done: int
    documents_total: int | None
    bytes_written: int
    result_uri: str | None
    result_bytes: int | None
    result_sha256: str | None
    error_code: str | None
    error_message: str | None
    idempotency_key: str | None
    lease_until: datetime | None = None
    not_before: datetime | None = None
    retries: int = 0
    company: int | None = None
    keep_seconds: int | None = None
    progress: Mapping[str, Any] | None = None

    @property
    def is_live(self) -> bool:
        """Whether the request is on its way."""
        return self.status in LIVE

    @property
    def most_people(self) -> int:
        """For how many people the request may ask at most, before the identity is closed."""
        return len(self.selection.get("uids", ())) or int(self.selection.get("max_users", 1))

    @property
    def narrowing(self) -> Narrowing:
        """Which part of the person's data is asked for."""
        return parse_narrowing(self.selection.get("narrowing", {}))


def _content(*of: Any) -> str:
    return json.dumps(of, sort_keys=True)


def check_app_id(app_id: object) -> None:
    """Raise BadInputError unless ``app_id`` can be part of a collection's name and of a path."""
    if not isinstance(app_id, str) or not _APP_ID.fullmatch(app_id):
        raise BadInputError("app id: expected 1 to 64 letters, digits, '_' or '-'")


def check_uids(uids: object) -> None:
    """Raise BadInputError unless ``uids`` is a list of at least one uid, each a string MongoDB can hold."""
    if isinstance(uids, str | bytes) or not isinstance(uids, Sequence):
        raise BadInputError(f"uids: expected a list of strings, not {type(uids).__name__}")
    if not uids:
        raise BadInputError("uids: expected at least one uid")
    if len(uids) > MOST_USERS:
        raise BadInputError(f"uids: at most {MOST_USERS} are allowed in one request, not {len(uids)}")
    for position, uid in enumerate(uids, start=1):
        if not isinstance(uid, str):
            raise BadInputError(f"uids: number {position} is of type {type(uid).__name__}; a uid is a string")
        if not 0 < len(uid) <= LONGEST_UID:
            raise BadInputError(f"uids: number {position} must have 1 to {LONGEST_UID} characters")
        if any("\ud800" <= character <= "\udfff" for character in uid):
            raise BadInputError(f"uids: number {position} is not valid text (it has half of a surrogate pair)")
