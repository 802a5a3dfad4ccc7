"""Rows of which only one may live at a time: a backup of an app, a restore into a database.

What is held alone is told by a fingerprint; the table's index lets one row of a fingerprint live, whoever inserts at
the same moment.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from export_pipeline.errors import BadInputError
from export_pipeline.requests.database import RequestsDatabaseError, database_errors
from export_pipeline.requests.models import LIVE, LONGEST_ACTOR, LONGEST_KEY, Request
from export_pipeline.requests.reading import RequestReader
from export_pipeline.requests.rows import COLUMNS, requests_in, table
from export_pipeline.requests.submitting import IdempotencyConflictError, insert_row, new_row

_MOST_RACES = 10


@dataclass(frozen=True, slots=True)
class Exclusive:
    """A row to be inserted, checked as far as the table goes: making one that is not allowed raises BadInputError."""

    kind: str
    app_id: str
    holds: str
    """What no other live row of the kind may hold too."""
    options: Mapping[str, Any] = field(default_factory=dict)
    requested_by: str = "unknown"
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        if len(self.requested_by) > LONGEST_ACTOR:
            raise BadInputError(f"requested by: at most {LONGEST_ACTOR} characters are allowed")
        if self.idempotency_key is not None and not 0 < len(self.idempotency_key) <= LONGEST_KEY:
            raise BadInputError(f"idempotency key: expected 1 to {LONGEST_KEY} characters")

    @property
    def fingerprint(self) -> str:
        """The row's ``fingerprint`` column."""
        return hashlib.sha256(f"{self.kind}\0{self.holds}".encode()).hexdigest()


class ExclusiveRequests(RequestReader):
    """Inserting such rows."""

    def submit_exclusive(
        self, new: Exclusive, under_way: Callable[[Request], BadInputError], *, run_here: bool
    ) -> Request:
        """Insert a row as ``pending``; with ``run_here`` as ``running``, for a caller that does the work itself.

        A repetition, by its idempotency key, returns the row of the first time. Raises what ``under_way`` makes of
        the live row that holds the same, and IdempotencyConflictError.
        """
        with database_errors():
            for _ in range(_MOST_RACES):
                try:
                    with self._engine.begin() as connection:
                        return _insert_or_find(connection, new, under_way, run_here=run_here)
                except IntegrityError:
                    continue  # another writer was faster: on PostgreSQL its row is seen only now
        raise RequestsDatabaseError("the requests table refused a new row again and again; try again")


def _insert_or_find(
    connection: Connection, new: Exclusive, under_way: Callable[[Request], BadInputError], *, run_here: bool
) -> Request:
    if new.idempotency_key is not None:
        same_key = (table.app_id == new.app_id, table.idempotency_key == new.idempotency_key)
        for found in requests_in(connection, select(*COLUMNS).where(*same_key)):
            if found.kind == new.kind and _content(found.options) == _content(new.options):
                return found
            raise IdempotencyConflictError(
                f"this idempotency key belongs to request {found.id}, which asks for something else; use a new key"
            )
    alive = select(*COLUMNS).where(table.fingerprint == new.fingerprint, table.status.in_(LIVE))
    for live in requests_in(connection, alive):
        raise under_way(live)
    row = new_row(new.kind, new.app_id, new.options, new.requested_by, new.idempotency_key, run_here=run_here)
    return insert_row(connection, row | {"fingerprint": new.fingerprint})


def _content(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)
