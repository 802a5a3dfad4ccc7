"""Backups as rows of the requests table: asking for one, and finding those that wait.

What a worker does to them (claim, signs of life, progress, completion, failure) is the same as for exports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from export_pipeline.errors import BadInputError
from export_pipeline.requests.exclusive import Exclusive, ExclusiveRequests
from export_pipeline.requests.models import ALL_APPS, Request, check_app_id
from export_pipeline.requests.rows import Rows, table

KIND = "app_backup"


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
        _ = self.row  # which checks the rest

    @property
    def options(self) -> dict[str, Any]:
        """The request's ``options`` column."""
        others = {"base": self.base, "storage": self.storage, "schedule_id": self.schedule_id}
        return {**self.form, **{name: value for name, value in others.items() if value is not None}}

    @property
    def row(self) -> Exclusive:
        """What is inserted: an app has one backup at a time."""
        return Exclusive(KIND, self.app_id, self.app_id, self.options, self.requested_by, self.idempotency_key)


class BackupRequests(ExclusiveRequests):
    """Backups in the requests table."""

    @classmethod
    def beside(cls, rows: Rows) -> Self:
        """Return it on the database of ``rows``."""
        return cls(rows._engine)  # noqa: SLF001  # of the same family

    def submit(self, new: NewBackup, *, run_here: bool = False) -> Request:
        """Insert a backup; see ``submit_exclusive``.

        Raises BackupUnderWayError while another one of the app is pending or running, and IdempotencyConflictError.
        """
        return self.submit_exclusive(new.row, _under_way, run_here=run_here)

    def waiting(self, limit: int) -> list[Request]:
        """Return up to ``limit`` pending backups whose time has come, the oldest first."""
        return self.pending(limit, KIND)

    def completed(self, app_id: str) -> list[Request]:
        """Return an app's backups that there are, the newest first."""
        where = (table.kind == KIND, table.app_id == app_id, table.status == "completed")
        return self._select(*where, order=(table.id.desc(),))


def _under_way(live: Request) -> BackupUnderWayError:
    return BackupUnderWayError(
        f"backup {live.id} of this app is {live.status}; wait for it ('export-pipeline status {live.id}'), or cancel it"
    )
