"""The requests table, put together.

Each change of a request's state is one transaction that names the state it expects, with its event in the history.
Submitting, the work of a batch, and the rest of a request's life each have a module.
"""

from typing import Self

from sqlalchemy import Engine

from export_pipeline.requests.database import open_database
from export_pipeline.requests.lifecycle import DUE_AFTER, LATEST_DUE, Lifecycle
from export_pipeline.requests.secrets import SecretStore
from export_pipeline.requests.submitting import HERE, IdempotencyConflictError, Submissions
from export_pipeline.requests.working import BatchWork

__all__ = ["DUE_AFTER", "HERE", "LATEST_DUE", "IdempotencyConflictError", "RequestStore"]


class RequestStore(Submissions, BatchWork, Lifecycle):
    """The requests table, open."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.secrets = SecretStore(engine)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the table at a SQLAlchemy URL, migrating it if needed."""
        return cls(open_database(url))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
