"""What is asked of the requests table about backups. Nothing here changes a row."""

from sqlalchemy import select

from export_pipeline.requests.backups import KIND
from export_pipeline.requests.models import LIVE, Request
from export_pipeline.requests.reading import RequestReader
from export_pipeline.requests.restores import KIND as RESTORE
from export_pipeline.requests.rows import table


class BackupReader(RequestReader):
    """The requests table, as schedules and retention see it."""

    def present(self) -> list[Request]:
        """Return the backups that there are or that are under way, of all apps, in the order of their ids."""
        return self._select(table.kind == KIND, table.status.in_([*LIVE, "completed"]), order=(table.id,))

    def read_by_restores(self) -> set[str]:
        """Return the ids of the backups that a restore under way, or about to begin, reads."""
        restores = self._select(table.kind == RESTORE, table.status.in_(LIVE))
        return {str(restore.options["backup_id"]) for restore in restores}

    def storages(self) -> list[str]:
        """Return the roots that backups have gone to, other than the installation's, sorted."""
        root = table.options["storage"].as_string()
        query = select(root).where(table.kind == KIND, root.is_not(None)).distinct().order_by(root)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())
