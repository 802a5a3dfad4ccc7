"""Restores as rows of the requests table: asking for one, and finding those that wait.

While one lives, nobody else restores into the same database, and retention leaves its backup where it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from export_pipeline.errors import BadInputError
from export_pipeline.requests.exclusive import Exclusive, ExclusiveRequests
from export_pipeline.requests.models import Request
from export_pipeline.requests.rows import Rows, table

KIND = "restore"


class RestoreUnderWayError(BadInputError):
    """A restore into this database is pending or running; there is one at a time."""

    code = "restore_under_way"


@dataclass(frozen=True, slots=True)
class NewRestore:
    """A request for a restore whose wish was checked before."""

    backup_id: str
    app_id: str
    """The app of the backup; ``*``: all apps."""
    named: str
    """How the backup was named: by its id, or by the folder that it was copied to."""
    databases: Sequence[str]
    """As ``backups.restore_plan.Wish`` has them, and the next three."""
    new_app_id: str | None
    without: Sequence[str]
    threads: int
    targets: Sequence[str]
    """The databases that are written; in the first is recorded how far it has come."""
    server: str
    """What tells the MongoDB that is written from others."""
    attended: bool = False
    """Whether it needs what only its caller has, such as a key: nobody else can try it again."""
    requested_by: str = "unknown"

    @property
    def row(self) -> Exclusive:
        """What is inserted: a database is restored by one at a time."""
        options: dict[str, Any] = {
            "backup_id": self.backup_id,
            "backup": self.named,
            "to_database": list(self.databases),
            "app_id": self.new_app_id,
            "without": list(self.without),
            "threads": self.threads,
            "targets": list(self.targets),
            "attended": self.attended,
        }
        holds = "\0".join([self.server, *sorted(self.targets)])
        return Exclusive(KIND, self.app_id, holds, options, self.requested_by)


class RestoreRequests(ExclusiveRequests):
    """Restores in the requests table."""

    @classmethod
    def beside(cls, rows: Rows) -> Self:
        """Return it on the database of ``rows``."""
        return cls(rows._engine)  # noqa: SLF001  # of the same family

    def submit(self, new: NewRestore, *, run_here: bool = False) -> Request:
        """Insert a restore; see ``submit_exclusive``. Raises RestoreUnderWayError."""
        return self.submit_exclusive(new.row, _under_way, run_here=run_here)

    def waiting(self, limit: int) -> list[Request]:
        """Return up to ``limit`` pending restores whose time has come, the oldest first."""
        return self.pending(limit, KIND)

    def completed_since(self, moment: datetime) -> list[Request]:
        """Return the restores that were completed at a moment or later."""
        return self._select(table.kind == KIND, table.status == "completed", table.finished_at >= moment)


def _under_way(live: Request) -> RestoreUnderWayError:
    return RestoreUnderWayError(
        f"restore {live.id} into this database is {live.status}; wait for it ('export-pipeline status {live.id}'), or, "
        f"if its process is dead, 'export-pipeline cancel {live.id}' and try again"
    )
