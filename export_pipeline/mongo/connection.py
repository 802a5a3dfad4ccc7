"""Connecting to MongoDB, and turning the driver's errors into ours.

The driver's messages may quote filters, and filters hold uids; so they are never passed on, only their kind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from export_pipeline.errors import (
    BadInputError,
    ExportPipelineError,
    MongoUnreachableError,
    PointInTimeError,
    ReadFailedError,
)

Document = dict[str, Any]

FIND_SERVER_MS = 8_000
"""How long to look for a server: an operator must hear within 10 s that there is none."""

_AUTHENTICATION_FAILED = {18, 8000}
_NOT_A_REPLICA_SET = 123
_CURSOR_NOT_FOUND = 43
_SNAPSHOT_TOO_OLD = 239
_SNAPSHOT_UNAVAILABLE = 246
_UNAUTHORIZED = 13


class SnapshotTooOldError(PointInTimeError):
    """The server no longer has the history of the chosen moment."""

    code = "snapshot_too_old"


def connect(uri: str) -> "MongoClient[Document]":
    """Return a client for ``uri`` that reads from secondaries where it may. Does no I/O yet.

    Raises BadInputError for a URI that cannot be understood.
    """
    preference: dict[str, Any] = {} if "readpreference=" in uri.lower() else {"readPreference": "secondaryPreferred"}
    try:
        return MongoClient(
            uri,
            appname="export_pipeline",
            serverSelectionTimeoutMS=FIND_SERVER_MS,
            connectTimeoutMS=FIND_SERVER_MS,
            tz_aware=True,
            **preference,
        )
    except (InvalidURI, ConfigurationError, ValueError, TypeError):
        # The driver's message repeats parts of the URI, and a URI holds a password.
        raise BadInputError(
            "EXPORT_PIPELINE_MONGO_URI is not a MongoDB connection string; "
            "it looks like mongodb://user:password@host:27017/?replicaSet=rs0"
        ) from None


@contextmanager
def driver_errors(what: str) -> Iterator[None]:
    """Raise the driver's errors as ours; ``what`` names what was being read, for instance a collection."""
    try:
        yield
    except (PyMongoError, BSONError) as error:  # the latter, for instance, for a query that is too large to be sent
        raise translate(error, what) from None


def translate(error: PyMongoError | BSONError, what: str) -> ExportPipelineError:
    """Return our error for the driver's, without the driver's words."""
    if isinstance(error, ExecutionTimeout):
        return ReadFailedError(
            f"{what}: the server worked longer than EXPORT_PIPELINE_READ_TIMEOUT; "
            "an index on the user key shortens it, or raise the setting"
        )
    if isinstance(error, OperationFailure):
        return _translate_refusal(error, what)
    if isinstance(error, ConnectionFailure | ConfigurationError):  # the latter: a name that DNS does not know
        return MongoUnreachableError(
            f"{what}: MongoDB cannot be reached ({type(error).__name__}); "
            "check that it runs and that EXPORT_PIPELINE_MONGO_URI names it"
        )
    return ReadFailedError(f"{what}: the read failed ({type(error).__name__})")


def _translate_refusal(error: OperationFailure, what: str) -> ExportPipelineError:
    name = (error.details or {}).get("codeName", f"code {error.code}")
    if error.code in _AUTHENTICATION_FAILED:
        return ReadFailedError(f"{what}: MongoDB refused the user name or password; see EXPORT_PIPELINE_MONGO_URI")
    if error.code == _UNAUTHORIZED:
        return ReadFailedError(f"{what}: not authorized; grant the role 'read' on its database")
    if error.code == _NOT_A_REPLICA_SET:
        return PointInTimeError(f"{what}: a standalone server cannot read at one point in time")
    if error.code == _CURSOR_NOT_FOUND:
        return ReadFailedError(
            f"{what}: the server no longer has the cursor: reading paused for too long (see "
            "EXPORT_PIPELINE_MAX_PAUSE), or the member restarted; retry"
        )
    if error.code in (_SNAPSHOT_TOO_OLD, _SNAPSHOT_UNAVAILABLE):
        return SnapshotTooOldError(
            f"{what}: the server no longer has the chosen moment ({name}); retry, and if the read takes long, raise "
            "minSnapshotHistoryWindowInSeconds on the server"
        )
    return ReadFailedError(f"{what}: MongoDB refused the read ({name})")
