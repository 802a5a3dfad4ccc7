"""Pages of a list: a cursor names the last item of the page before, is signed, and serves for the same list alone."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import Query

from export_pipeline.access.signing import SignatureError, Signer

CURSOR_SERVES = timedelta(days=1)
MOST_ON_A_PAGE = 200
USUAL_PAGE = 50

Limit = Annotated[int, Query(ge=1, le=MOST_ON_A_PAGE, description="The most of them on one page.")]
Cursor = Annotated[str | None, Query(max_length=4096, description="`next` of the page before, with the same filters.")]


def cursor_after(last: Any, listed: tuple[Any, ...], cursors: Signer) -> str:
    """Return the cursor of what follows ``last``; ``listed`` names the list, its filters and whose it is."""
    return cursors.sign([list(listed), last])


def read_cursor(cursor: str | None, listed: tuple[Any, ...], cursors: Signer) -> Any:
    """Return the last item of the page before; None for the first page. Raises SignatureError."""
    if cursor is None:
        return None
    made_for, last = cursors.read(cursor, CURSOR_SERVES)
    if made_for != list(listed):
        raise SignatureError("cursor: this is for another list, or other filters; begin again")
    return last
