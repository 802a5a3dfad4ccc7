"""What is told of a request that has ended: the same facts for a mail's template and for a webhook's body. No I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from export_pipeline.requests.backups import KIND as APP_BACKUP
from export_pipeline.requests.models import USER_EXPORT, Request
from export_pipeline.requests.retries import PASSING

LinkFor = Callable[[Request], str | None]
"""Makes the link that hands a request's file over, without a login; None where there is no such link."""

WORDS = {USER_EXPORT: "export", APP_BACKUP: "backup"}


@dataclass(frozen=True, slots=True)
class News:
    """How a request ended, without anything about the people whose data it is."""

    export_id: str
    app_id: str
    what: str
    """In a word: ``export``, ``backup`` or ``restore``."""
    outcome: Literal["completed", "failed"]
    error_code: str | None
    link: str | None
    expires_at: datetime | None
    """Until when the file is there, and the link works."""
    requested_at: datetime
    finished_at: datetime | None

    @property
    def event(self) -> str:
        """What happened, for programs: ``export.completed``."""
        return f"{self.what}.{self.outcome}"

    @property
    def advice(self) -> str:
        """What to do about a failure."""
        if self.error_code in PASSING:
            return "Something that is needed for it was out of reach. Please ask for it again later."
        return "Please write to whoever runs the service that you asked, and name the Export ID."


def news_of(request: Request, link: str | None) -> News:
    """Return what to tell of a request that has completed, with the link to its file, or that has failed."""
    failed = request.status == "failed"
    return News(
        export_id=request.id,
        app_id=request.app_id,
        what=WORDS.get(request.kind, request.kind),
        outcome="failed" if failed else "completed",
        error_code=request.error_code if failed else None,
        link=None if failed else link,
        expires_at=None if failed else request.expires_at,
        requested_at=request.requested_at,
        finished_at=request.finished_at,
    )
