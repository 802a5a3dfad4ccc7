"""Connecting to MongoDB, and turning the driver's errors into ours.

The driver's messages may quote filters, and filters hold uids; so they are never passed on, only their kind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    ServerSelectionTimeoutError,
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

AUTHENTICATION_FAILED = 18

_ATLAS_REFUSED = 8000
_LOGIN_REFUSALS = ("'AuthenticationFailed'", "'AtlasError'")
_NOT_A_REPLICA_SET = 123
_CURSOR_NOT_FOUND = 43
_SNAPSHOT_TOO_OLD = 239
_SNAPSHOT_UNAVAILABLE = 246
_UNAUTHORIZED = 13


class SnapshotTooOldError(PointInTimeError):
    """The server no longer has the history of the chosen moment."""

    code = "snapshot_too_old"


class NotAuthorizedError(ReadFailedError):
    """The server does not let us in, or not do this; lasting, until somebody grants the right that is named."""

    code = "not_authorized"


@dataclass(frozen=True, slots=True)
class Right:
    """What a command needs to be allowed: an action on a collection, or on a database. The role ``read`` has all."""

    action: str
    database: str
    collection: str | None = None

    def __str__(self) -> str:
        on = f"the database {self.database}" if self.collection is None else f"{self.database}.{self.collection}"
        return f"the right '{self.action}' on {on} (the role 'read' on the database {self.database} has it)"


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
def driver_errors(what: str, right: Right | None = None) -> Iterator[None]:
    """Raise the driver's errors as ours; ``what`` names what was being read, for instance a collection.

    ``right`` is what the server may refuse; None where all users may do it who may log in.
    """
    try:
        yield
    except (PyMongoError, BSONError) as error:  # the latter, for instance, for a query that is too large to be sent
        raise translate(error, what, right) from None


def translate(error: PyMongoError | BSONError, what: str, right: Right | None = None) -> ExportPipelineError:
    """Return our error for the driver's, without the driver's words."""
    if isinstance(error, ExecutionTimeout):
        return ReadFailedError(
            f"{what}: the server worked longer than EXPORT_PIPELINE_READ_TIMEOUT; "
            "an index on the user key shortens it, or raise the setting"
        )
    if isinstance(error, OperationFailure):
        return _translate_refusal(error, what, right)
    if isinstance(error, ServerSelectionTimeoutError) and any(name in str(error) for name in _LOGIN_REFUSALS):
        # A server that has just refused a login counts as gone until the driver looks again; the text alone tells.
        return _login_refused(what)
    if isinstance(error, ConnectionFailure | ConfigurationError):  # the latter: a name that DNS does not know
        return MongoUnreachableError(
            f"{what}: MongoDB cannot be reached ({type(error).__name__}); "
            "check that it runs and that EXPORT_PIPELINE_MONGO_URI names it"
        )
    return ReadFailedError(f"{what}: the read failed ({type(error).__name__})")


def _login_refused(what: str) -> NotAuthorizedError:
    return NotAuthorizedError(f"{what}: MongoDB refused the user name or password; see EXPORT_PIPELINE_MONGO_URI")


def _translate_refusal(error: OperationFailure, what: str, right: Right | None) -> ExportPipelineError:
    name = (error.details or {}).get("codeName", f"code {error.code}")
    if error.code == AUTHENTICATION_FAILED:
        return _login_refused(what)
    if error.code in (_UNAUTHORIZED, _ATLAS_REFUSED):
        refused = "not authorized" if error.code == _UNAUTHORIZED else "MongoDB Atlas refused the login or the right"
        needed = right or "the role 'read' on each database that is read"
        return NotAuthorizedError(f"{what}: {refused}; the user of EXPORT_PIPELINE_MONGO_URI needs {needed}")
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
