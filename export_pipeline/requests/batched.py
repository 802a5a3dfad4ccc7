"""What a worker asks and records of many of a batch's requests at once: a transaction each costs more than the work."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from sqlalchemy import bindparam, select, update

from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.rows import PIPELINE, Rows, locked, now, record, requests_in, running_in, table
from export_pipeline.requests.schema import export_requests
from export_pipeline.requests.secrets import forget_secrets
from export_pipeline.requests.submitting import _insert_or_find as insert_or_find
from export_pipeline.requests.submitting import _row


@dataclass(frozen=True, slots=True)
class Published:
    """A published package, as its request's row tells of it."""

    request_id: str
    documents: int
    uri: str
    bytes: int
    sha256: str
    expires_at: datetime | None


class BatchedWork(Rows):
    """The changes of many rows in one transaction. At most some hundred requests at a time."""

    @classmethod
    def beside(cls, rows: Rows) -> Self:
        """Return it on the database of ``rows``."""
        return cls(rows._engine)  # noqa: SLF001  # of the same family

    def submit(self, requests: Sequence[NewRequest]) -> list[Request]:
        """Insert many requests as ``RequestStore.submit`` inserts one: all, or none where one is refused.

        Raises what that does, and RequestsDatabaseError where another writer inserts an equal one at the same moment.
        """
        with self._writing() as connection:
            return [
                insert_or_find(connection, new, _row(new, run_here=False) | {"fingerprint": new.fingerprint}, None)
                for new in requests
            ]

    def still_running(self, batch_id: str, request_ids: Collection[str]) -> set[str]:
        """Return those of the requests that still run in this batch."""
        query = select(table.id).where(*running_in(batch_id), table.id.in_(request_ids))
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def complete(self, batch_id: str, packages: Sequence[Published]) -> set[str]:
        """Record published packages; return the ids of the requests that are completed now.

        The others did not run in this batch any more, and stay as they are.
        """
        at = now()
        with self._writing() as connection:
            ids = [package.request_id for package in packages]
            running = {
                request.id for request in requests_in(connection, locked(*running_in(batch_id), table.id.in_(ids)))
            }
            rows = [
                {
                    "of_request": package.request_id,
                    "documents": package.documents,
                    "size": package.bytes,
                    "uri": package.uri,
                    "sha256": package.sha256,
                    "expiry": package.expires_at,
                }
                for package in packages
                if package.request_id in running
            ]
            if rows:
                connection.execute(
                    update(export_requests)
                    .where(table.id == bindparam("of_request"))
                    .values(
                        status="completed",
                        finished_at=at,
                        updated_at=at,
                        lease_until=None,
                        progress=None,
                        documents_done=bindparam("documents"),
                        documents_total=bindparam("documents"),
                        bytes_written=bindparam("size"),
                        result_uri=bindparam("uri"),
                        result_bytes=bindparam("size"),
                        result_sha256=bindparam("sha256"),
                        expires_at=bindparam("expiry"),
                    ),
                    rows,
                )
                record(connection, sorted(running), "completed", PIPELINE)
                forget_secrets(connection, sorted(running))
        return running
