"""Which rows a person's or an app's removal concerns, and what of a row stays as history. No I/O."""

from collections.abc import Mapping
from typing import Any

from export_pipeline.requests.models import Request

FORGOTTEN = "forgotten"


def names(request: Request, uid: str) -> bool:
    """Tell whether a request names the person by uid."""
    return uid in request.selection.get("uids", ())


def without_person(selection: Mapping[str, Any], uid: str) -> dict[str, Any]:
    """Return the selection without the person, and with a count of who is gone.

    Where nobody is left, nothing else is: a filter or a condition may name a person too.
    """
    rest = [other for other in selection.get("uids", ()) if other != uid]
    gone = int(selection.get(FORGOTTEN, 0)) + 1
    return {**selection, "uids": rest, FORGOTTEN: gone} if rest else {FORGOTTEN: gone}


def without_people(selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is left of a selection of an app that is gone."""
    return {FORGOTTEN: int(selection.get(FORGOTTEN, 0)) + (len(selection.get("uids", ())) or 1)}
