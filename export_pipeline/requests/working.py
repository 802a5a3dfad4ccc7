"""What the workers of batches change: claiming, signs of life, progress, and how each request ends.

The batch id fences off a worker that was given up: the claim that followed made a new one. Losing a race is not an
error where several do the same (claiming); acting on a stale state is one, and raises StaleRequestError.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Update, select, update

from export_pipeline.errors import StaleRequestError
from export_pipeline.requests.batches import Batch
from export_pipeline.requests.models import Request, Status
from export_pipeline.requests.reading import RequestReader
from export_pipeline.requests.retries import RUN_LOST, Standing, after_failure
from export_pipeline.requests.rows import (
    PIPELINE,
    change,
    change_one,
    chunks,
    locked,
    now,
    record,
    requests_in,
    running_in,
    table,
)
from export_pipeline.requests.schema import export_requests
from export_pipeline.requests.secrets import forget_secrets
from export_pipeline.requests.submitting import HERE


class BatchWork(RequestReader):
    """The changes that the worker of a batch makes, and the one that gives a worker up."""

    def claim(self, batch: Batch) -> list[str]:
        """Move the batch's requests from ``pending`` to ``running``; return the ids of those that this call moved."""
        at = now()
        claimed: list[str] = []
        with self._writing() as connection:
            for ids in chunks(batch.request_ids):
                # What another writer has locked, it is claiming: PostgreSQL passes it over instead of waiting.
                free = select(table.id).where(table.id.in_(ids), table.status == "pending").order_by(table.id)
                claimed += connection.execute(
                    update(export_requests)
                    .where(table.id.in_(free.with_for_update(skip_locked=True)), table.status == "pending")
                    .values(
                        status="running",
                        batch_id=batch.id,
                        attempt=table.attempt + 1,
                        started_at=at,
                        updated_at=at,
                        run_id=None,
                        lease_until=None,
                        not_before=None,
                        finished_at=None,
                        error_code=None,
                        error_message=None,
                        documents_done=0,
                        documents_total=None,
                        bytes_written=0,
                        progress=None,
                    )
                    .returning(table.id)
                ).scalars()
            record(connection, claimed, "claimed", "sensor", f"batch {batch.id}")
        return claimed

    def attach_run(self, batch_id: str, run_id: str) -> int:
        """Note which run serves the batch's running requests; return how many those are."""
        return self._change_running(batch_id, run_id=run_id)

    def renew_lease(self, batch_id: str, until: datetime) -> int:
        """Show a sign of life for the batch's running requests; return how many those are."""
        return self._change_running(batch_id, lease_until=until)

    def set_totals(self, batch_id: str, totals: Mapping[str, int]) -> None:
        """Note how many documents each of the batch's running requests expects."""
        with self._writing() as connection:
            for request_id, total in sorted(totals.items()):
                connection.execute(_if_running(request_id, batch_id).values(documents_total=total, updated_at=now()))

    def batch_progress(self, batch_id: str, progress: Mapping[str, Any]) -> None:
        """Note how far all of the batch's running requests are. Raises StaleRequestError if there are none."""
        if not self._change_running(batch_id, progress=dict(progress)):
            raise StaleRequestError(f"batch {batch_id} has no running request any more")

    def progress(
        self,
        request_id: str,
        batch_id: str,
        *,
        documents_done: int,
        bytes_written: int,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Note how far a request is. Raises StaleRequestError unless it still runs in this batch."""
        values: dict[str, Any] = {"documents_done": documents_done, "bytes_written": bytes_written}
        if progress is not None:
            values["progress"] = dict(progress)
        with self._writing() as connection:
            statement = _if_running(request_id, batch_id).values(updated_at=now(), **values)
            change_one(connection, statement, request_id, "running")

    def advance(self, request_id: str, batch_id: str, *, documents: int, bytes_written: int) -> None:
        """Note so many more documents and bytes, for a request that several processes work on at a time.

        Raises StaleRequestError unless it still runs in this batch.
        """
        more = {
            "documents_done": table.documents_done + documents,
            "bytes_written": table.bytes_written + bytes_written,
        }
        with self._writing() as connection:
            statement = _if_running(request_id, batch_id).values(updated_at=now(), **more)
            change_one(connection, statement, request_id, "running")

    def complete(
        self,
        request_id: str,
        batch_id: str,
        *,
        documents: int,
        result_uri: str | None,
        result_bytes: int,
        result_sha256: str | None,
        expires_at: datetime | None,
    ) -> None:
        """Record a published package, or other work that is done.

        Raises StaleRequestError unless the request still runs in this batch.
        """
        at = now()
        with self._writing() as connection:
            statement = _if_running(request_id, batch_id).values(
                status="completed",
                finished_at=at,
                updated_at=at,
                lease_until=None,
                progress=None,
                documents_done=documents,
                documents_total=documents,
                bytes_written=result_bytes,
                result_uri=result_uri,
                result_bytes=result_bytes,
                result_sha256=result_sha256,
                expires_at=expires_at,
            )
            change_one(connection, statement, request_id, "running")
            record(connection, [request_id], "completed", PIPELINE)
            forget_secrets(connection, [request_id])

    def fail(self, request_id: str, batch_id: str, *, code: str, message: str) -> Status:
        """Record why a request failed; return ``failed``, or ``pending`` where it will be tried again by itself.

        Raises StaleRequestError unless it still runs in this batch.
        """
        with self._writing() as connection:
            running = requests_in(connection, locked(*running_in(batch_id)))
            failing = [request for request in running if request.id == request_id]
            if not failing:
                raise StaleRequestError(f"request {request_id} is not 'running' any more")
            _fail(connection, failing, len(running), code, message)
        return self.get(request_id).status

    def fail_batch(self, batch_id: str, *, code: str, message: str) -> list[str]:
        """Record why all of the batch's running requests failed; return their ids."""
        return self._fail_running(code, message, *running_in(batch_id))

    def give_up(self, batch_id: str, seen: datetime | None, *, message: str) -> list[str]:
        """Record that a batch's worker is dead, unless its lease has moved on since it was ``seen``.

        Returns the ids of the requests that ran in it.
        """
        untouched = table.lease_until.is_not_distinct_from(seen)
        return self._fail_running(RUN_LOST, message, *running_in(batch_id), untouched)

    def _fail_running(self, code: str, message: str, *where: ColumnElement[bool]) -> list[str]:
        with self._writing() as connection:
            failing = requests_in(connection, locked(*where))
            _fail(connection, failing, len(failing), code, message)
        return [request.id for request in failing]

    def _change_running(self, batch_id: str, **values: Any) -> int:
        with self._writing() as connection:
            in_order = select(table.id).where(*running_in(batch_id)).order_by(table.id).with_for_update()
            return connection.execute(
                update(export_requests)
                .where(table.id.in_(in_order), *running_in(batch_id))
                .values(updated_at=now(), **values)
            ).rowcount


def _fail(connection: Connection, failing: Sequence[Request], size: int, code: str, message: str) -> None:
    jitter = random.random()  # noqa: S311  # one for all: who failed together may travel together again
    alike: dict[Standing, list[str]] = defaultdict(list)
    for request in failing:
        standing = after_failure(
            code,
            retries=request.retries,
            company=request.company,
            size=size,
            by_itself=request.run_id != HERE,
            jitter=jitter,
        )
        alike[standing].append(request.id)
    at = now()
    for standing, ids in alike.items():
        again = standing.status == "pending"
        change(
            connection,
            ids,
            status=standing.status,
            retries=standing.retries,
            company=standing.company,
            not_before=at + standing.delay if again else None,
            finished_at=None if again else at,
            lease_until=None,
            progress=None,
            error_code=code,
            error_message=message,
        )
        record(connection, ids, "failed", PIPELINE, code)
        if again:
            waits = timedelta(seconds=round(standing.delay.total_seconds()))
            record(connection, ids, "retrying", PIPELINE, f"in {waits}")


def _if_running(request_id: str, batch_id: str) -> Update:
    return update(export_requests).where(table.id == request_id, *running_in(batch_id))
