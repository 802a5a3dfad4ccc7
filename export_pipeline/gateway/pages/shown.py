"""How figures, states and errors are put for people. No I/O."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from export_pipeline.gateway.shapes import Export
from export_pipeline.requests.models import LIVE, Status
from export_pipeline.requests.progress import READING
from export_pipeline.requests.retries import PASSING


class State(NamedTuple):
    """How a state looks: no colour alone tells it."""

    word: str
    sign: str


STATES: Mapping[Status, State] = {
    "pending": State("Waiting", "○"),
    "running": State("Running", "▶"),
    "completed": State("Ready", "✓"),
    "expired": State("Expired", "□"),
    "failed": State("Failed", "✗"),
    "cancelled": State("Cancelled", "⊘"),
}

_EVENTS = {
    "submitted": "asked for",
    "joined": "asked for once more, and joined",
    "claimed": "taken up",
    "retrying": "failed, and tried again by itself",
    "completed": "completed",
    "failed": "failed",
    "retried": "to be tried again",
    "cancelled": "cancelled",
    "expired": "the file was removed, its time was over",
    "deleted": "the file was removed on request",
    "due_extended": "given more time",
    "due_warning": "due soon",
    "overdue": "overdue",
    "forgotten": "whom it was about was forgotten",
    "notified": "notice sent",
    "notification_failed": "notice could not be sent",
    "notification_unknown": "notice sent, perhaps",
}

_ADVICE = {
    "unknown_app": "Check the app's id, then ask for a new export.",
    "point_in_time": "The database has to be a replica set; ask its operator.",
    "not_authorized": "The database user of this installation lacks a right, which the message names; then try again.",
    "incomplete": "What was written was not what the database counted, so nothing was handed over. Try it again.",
}


def happened(event: str) -> str:
    """Return an event of a history in words."""
    return _EVENTS.get(event, event.replace("_", " "))


def advice(code: str) -> str:
    """Return what to do about an error."""
    if code in PASSING:
        return "It was tried several times. Once what is needed answers again, press Try again."
    return _ADVICE.get(code, "Mend what the message names, then press Try again, or ask for a new export.")


def number(count: int) -> str:
    """Return a count.

    >>> number(1234567)
    '1,234,567'
    """
    return f"{count:,}"


def size(count: int) -> str:
    """Return a number of bytes.

    >>> size(999), size(1_240_000)
    ('999 bytes', '1.2 MB')
    """
    if count < 1000:
        return f"{count} bytes"
    power = next((power for power in (1, 2, 3) if count < 999.95 * 1000**power), 4)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def about(seconds: float) -> str:
    """Return a time to wait, as exactly as it can be known.

    >>> about(20), about(100), about(9000)
    ('less than a minute', 'about 2 minutes', 'about 3 hours')
    """
    if seconds < 45:
        return "less than a minute"
    if seconds < 5400:
        minutes = round(seconds / 60)
        return f"about {minutes} minute{'s' * (minutes != 1)}"
    hours = round(seconds / 3600)
    return f"about {hours} hours"


def share(export: Export) -> float | None:
    """Return how much of a running export is done, from 0 to 1; None while nothing tells.

    Reading its collections is the first half, writing its file the second.
    """
    if export.progress is None:
        return None
    rows = export.progress.collections
    wanted = sum(row.documents_expected for row in rows)
    done = min(sum(row.documents_done for row in rows), wanted)
    half = done / wanted / 2 if wanted else 0.0
    return half if export.progress.phase == READING else 0.5 + half


def expected(export: Export) -> int | None:
    """Return how many documents the export will have; None before its plan is made."""
    return export.documents_total


def is_overdue(export: Export, now: datetime) -> bool:
    """Tell whether an export should have been made by now."""
    return export.status in LIVE and export.due_at is not None and export.due_at < now
