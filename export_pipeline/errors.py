"""The one hierarchy of errors.

Each class has a stable ``code``: it lands in ``error_code`` of the requests table and is what programs branch
on. Each message says what was wrong, where, and what to do, and never holds personal data.
"""

from typing import ClassVar


class ExportPipelineError(Exception):
    """Root of all errors that this project raises on purpose."""

    code: ClassVar[str] = "internal"


class BadInputError(ExportPipelineError):
    """What was asked for cannot be understood or is not allowed; nothing was started."""

    code = "bad_input"


class CatalogError(BadInputError):
    """The catalogue has a mistake; the message names the file and the line."""

    code = "catalog"


class UnknownAppError(BadInputError):
    """The database knows no such app."""

    code = "unknown_app"


class MongoUnreachableError(ExportPipelineError):
    """No server answered; passing, so worth a retry."""

    code = "mongo_unreachable"


class PointInTimeError(ExportPipelineError):
    """The server cannot give one point in time, and the settings demand one."""

    code = "point_in_time"


class ReadFailedError(ExportPipelineError):
    """A collection could not be read to its end."""

    code = "read_failed"


class IncompleteError(ExportPipelineError):
    """What was written is not what the server counted, or not what was meant to be written."""

    code = "incomplete"


class StorageError(ExportPipelineError):
    """Files could not be written, read or removed; the message says where."""

    code = "storage"


class StaleRequestError(ExportPipelineError):
    """The request is no longer in the state that this change expects; somebody else moved it on."""

    code = "stale_request"


class UnknownRequestError(BadInputError):
    """No request has this Export ID."""

    code = "unknown_request"
