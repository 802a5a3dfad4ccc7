"""The cursor of a page of events: after which document to go on, sealed, since an ``_id`` may be a person's."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from export_pipeline.access.signing import LONGEST_SIGNED, SignatureError, Signer
from export_pipeline.gateway.paging import cursor_after, read_cursor
from export_pipeline.gateway.problems import ProblemError
from export_pipeline.requests.secrets import seal, unseal


@dataclass(frozen=True, slots=True)
class Position:
    """The last document that was handed over."""

    entry: str
    """The name of its entry in the catalogue."""
    source: str
    """The UUID of its collection, in hex."""
    last: bytes = field(repr=False)
    """``{"$literal": <its _id>}`` as BSON."""
    mask_key: bytes = field(repr=False)
    """Makes the hashes of masked values: equal on all pages of one walk, and on no others."""


class EventsCursors:
    """Makes and reads the cursors of one list: an app's events in a range of dates."""

    def __init__(self, signer: Signer, secret_key: str, listed: tuple[Any, ...]) -> None:
        self._signer = signer
        self._secret_key = secret_key
        self._listed = listed

    def after(self, position: Position) -> str:
        """Return the cursor of what follows a position. Raises a Problem where the ``_id`` is too large for one."""
        told = [position.entry, position.source, _text(position.last), _text(position.mask_key)]
        cursor = cursor_after(seal(json.dumps(told), self._secret_key), self._listed, self._signer)
        if len(cursor) > LONGEST_SIGNED:
            raise ProblemError(
                409, "large_id", "an event's _id is too large for a cursor; ask for application/x-ndjson instead"
            )
        return cursor

    def read(self, cursor: str) -> Position:
        """Return a cursor's position. Raises a Problem for one that was not made here, or for another list."""
        try:
            sealed = read_cursor(cursor, self._listed, self._signer)
        except SignatureError as error:
            raise ProblemError(400, error.code, str(error)) from None
        entry, source, last, mask_key = json.loads(unseal(sealed, self._secret_key))
        return Position(entry, source, base64.b64decode(last), base64.b64decode(mask_key))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
