"""Backups as rows of the requests table: asking for one, and finding those that wait.

What a worker does to them (claim, signs of life, progress, completion, failure) is the same as for exports.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from export_pipeline.errors import BadInputError
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.database import RequestsDatabaseError, database_errors
from export_pipeline.requests.models import ALL_APPS, LIVE, LONGEST_ACTOR, LONGEST_KEY, Request, check_app_id
from export_pipeline.requests.reading import RequestReader
from export_pipeline.requests.rows import COLUMNS, Rows, now, record, requests_in, table
from export_pipeline.requests.schema import export_requests
from export_pipeline.requests.submitting import HERE, IdempotencyConflictError

KIND = "app_backup"

_MOST_RACES = 10


class BackupUnderWayError(BadInputError):
    """A backup of this app is pending or running; there is one at a time."""

    code = "backup_under_way"


@dataclass(frozen=True, slots=True)
class NewBackup:
    """A request for a backup, checked as far as the table goes: making one that is not allowed raises BadInputError."""

    app_id: str
    """``*``: all apps."""
    form: Mapping[str, Any] = field(default_factory=dict)
    """In which form: the names and values of ``backups.manifest.BackupOptions``."""
    base: str | None = None
    """The id of the backup that an incremental one is made on; None: a full one."""
    storage: str | None = None
    """The root of the storage that it goes to; None: the installation's."""
    schedule_id: str | None = None
    requested_by: str = "unknown"
    idempotency_key: str | None = None
    """The caller's own name for the request: sent again with the same content, it gives the same request."""

    def __post_init__(self) -> None:
        if self.app_id != ALL_APPS:
            check_app_id(self.app_id)
        if len(self.requested_by) > LONGEST_ACTOR:
            raise BadInputError(f"requested by: at most {LONGEST_ACTOR} characters are allowed")
        if self.idempotency_key is not None and not 0 < len(self.idempotency_key) <= LONGEST_KEY:
            raise BadInputError(f"idempotency key: expected 1 to {LONGEST_KEY} characters")

    @property
    def options(self) -> dict[str, Any]:
        """The request's ``options`` column."""
        others = {"base": self.base, "storage": self.storage, "schedule_id": self.schedule_id}
        return {**self.form, **{name: value for name, value in others.items() if value is not None}}


class BackupRequests(RequestReader):
    """Backups in the requests table."""

    @classmethod
    def beside(cls, rows: Rows) -> Self:
        """Return it on the database of ``rows``."""
        return cls(rows._engine)  # noqa: SLF001  # of the same family

    def submit(self, new: NewBackup, *, run_here: bool = False) -> Request:
        """Insert a backup as ``pending``; with ``run_here`` as ``running``, for a caller that does the work itself.

        A repetition, by its idempotency key, returns the row of the first time. Raises BackupUnderWayError while
        another one of the app is pending or running, and IdempotencyConflictError.
        """
        with database_errors():
            for _ in range(_MOST_RACES):
                try:
                    with self._engine.begin() as connection:
                        return _insert_or_find(connection, new, run_here=run_here)
                except IntegrityError:
                    continue  # another writer was faster: on PostgreSQL its row is seen only now
        raise RequestsDatabaseError("the requests table refused a new row again and again; try again")

    def waiting(self, limit: int) -> list[Request]:
        """Return up to ``limit`` pending backups whose time has come, the oldest first."""
        return self.pending(limit, KIND)

    def completed(self, app_id: str) -> list[Request]:
        """Return an app's backups that there are, the newest first."""
        where = (table.kind == KIND, table.app_id == app_id, table.status == "completed")
        return self._select(*where, order=(table.id.desc(),))


def _insert_or_find(connection: Connection, new: NewBackup, *, run_here: bool) -> Request:
    if new.idempotency_key is not None:
        same_key = (table.app_id == new.app_id, table.idempotency_key == new.idempotency_key)
        for found in requests_in(connection, select(*COLUMNS).where(*same_key)):
            if found.kind == KIND and _content(found.options) == _content(new.options):
                return found
            raise IdempotencyConflictError(
                f"this idempotency key belongs to request {found.id}, which asks for something else; use a new key"
            )
    # The index lets one row of a fingerprint live at a time, whoever inserts at the same moment.
    fingerprint = hashlib.sha256(f"{KIND}\0{new.app_id}".encode()).hexdigest()
    alive = select(*COLUMNS).where(table.fingerprint == fingerprint, table.status.in_(LIVE))
    for live in requests_in(connection, alive):
        raise BackupUnderWayError(
            f"backup {live.id} of this app is {live.status}; wait for it ('export-pipeline status {live.id}'), or "
            "cancel it"
        )
    at = now()
    row: dict[str, Any] = {
        "id": new_id(),
        "kind": KIND,
        "app_id": new.app_id,
        "selection": {},
        "options": new.options,
        "status": "pending",
        "attempt": 0,
        "priority": 0,
        "requested_by": new.requested_by,
        "requested_at": at,
        "updated_at": at,
        "documents_done": 0,
        "bytes_written": 0,
        "idempotency_key": new.idempotency_key,
        "fingerprint": fingerprint,
    }
    if run_here:
        row |= {"status": "running", "attempt": 1, "batch_id": new_id(), "run_id": HERE, "started_at": at}
    connection.execute(insert(export_requests), row)
    record(connection, [row["id"]], "submitted", new.requested_by)
    if run_here:
        record(connection, [row["id"]], "claimed", new.requested_by)
    return requests_in(connection, select(*COLUMNS).where(table.id == row["id"]))[0]


def _content(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)
