"""What goes in and out of the endpoints on exports, and how a row becomes what a caller sees."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from export_pipeline.catalog.narrowing import EVERYTHING, Narrowing
from export_pipeline.formats.protocol import MOST_RECIPIENTS, SMALLEST_PART, Compression
from export_pipeline.formats.registry import FORMATS, JSON_MODES, write_options
from export_pipeline.notifications.outbox import Channel
from export_pipeline.packages.layers import is_encrypted
from export_pipeline.requests.models import (
    DEFAULT_FORMAT,
    DEFAULT_JSON_MODE,
    LONGEST_RETENTION,
    LONGEST_UID,
    MOST_USERS,
    NewRequest,
    Request,
    Status,
)
from export_pipeline.requests.progress import time_left
from export_pipeline.requests.retries import PASSING

AppId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The app.")]
LONGEST_ADDRESS = 2000
APP_OR_ALL = r"^([A-Za-z0-9_-]{1,64}|\*)$"
Uid = Annotated[str, Field(min_length=1, max_length=LONGEST_UID)]

_FILE_OPTIONS: Mapping[str, Any] = {
    "lossless": True,
    "dotted": False,
    "formulas": False,
    "compression": "none",
    "split_bytes": None,
    "recipients": (),
}
"""The options of a file, with what they are where nothing is said."""


class Asked(BaseModel):
    """Whose data is wanted, which part of it, and in which form."""

    model_config = ConfigDict(extra="forbid")

    app_id: AppId
    uids: list[Uid] = Field([], max_length=MOST_USERS, description="The users; or give `person`.")
    person: dict[str, Any] | None = Field(
        None, description="Instead of uids, a filter on the people.", examples=[{"email": "me@example.org"}]
    )
    max_users: int = Field(1, ge=1, le=MOST_USERS, description="The most users that `person` may find.")
    narrowing: Narrowing = Field(EVERYTHING, description="Which part of the data; all of it if left out.")
    format: str = Field(DEFAULT_FORMAT, json_schema_extra={"enum": list(FORMATS)})
    json_mode: str = Field(DEFAULT_JSON_MODE, json_schema_extra={"enum": list(JSON_MODES)})
    lossless: bool = Field(True, description="Parquet: with each whole document in the column _doc.")
    dotted: bool = Field(False, description="CSV, Excel: columns for embedded documents' fields.")
    formulas: bool = Field(False, description="CSV: leave cells that a spreadsheet would run as a formula.")
    compression: Compression = Field("none", description="JSON, and gzip within bson.")
    split_bytes: int | None = Field(None, ge=SMALLEST_PART, description="The most bytes of one file.")
    recipients: list[str] = Field([], max_length=MOST_RECIPIENTS, description="Public keys (age1…) to encrypt to.")

    def new_request(self, *, requested_by: str, passphrase: bool = False, **more: Any) -> NewRequest:
        """Return the checked request. Raises BadInputError."""
        chosen = {name: getattr(self, name) for name in _FILE_OPTIONS}
        options = {name: value for name, value in chosen.items() if value not in (_FILE_OPTIONS[name], [])}
        return NewRequest(
            self.app_id,
            self.uids,
            self.format,
            self.json_mode,
            requested_by=requested_by,
            narrowing=self.narrowing,
            person=self.person,
            max_users=self.max_users,
            file_options=options | ({"passphrase": True} if passphrase else {}),
            **more,
        )


class NewExport(Asked):
    """A new export."""

    passphrase: SecretStr | None = Field(
        None, min_length=1, max_length=1000, description="Encrypts the file; age opens it. Kept, sealed, until then."
    )
    retention_seconds: int | None = Field(
        None,
        ge=1,
        le=int(LONGEST_RETENTION.total_seconds()),
        description="How long the file is kept once it is ready; as the installation says if left out.",
    )

    mail: str | None = Field(
        None, max_length=LONGEST_ADDRESS, description="Whom to tell by e-mail when it is ready, or has failed."
    )
    webhook: str | None = Field(None, max_length=LONGEST_ADDRESS, description="The https URL of a program to tell.")

    @property
    def wishes(self) -> dict[Channel, str | None]:
        """Who is to be told."""
        return {"mail": self.mail, "webhook": self.webhook}

    def request(self, *, requested_by: str, idempotency_key: str | None) -> NewRequest:
        """Return the checked request. Raises BadInputError."""
        return self.new_request(
            requested_by=requested_by,
            passphrase=self.passphrase is not None,
            idempotency_key=idempotency_key,
            retention=None if self.retention_seconds is None else timedelta(seconds=self.retention_seconds),
        )


class CollectionProgress(BaseModel):
    """How far one collection is."""

    name: str
    documents_expected: int
    documents_done: int
    bytes_done: int


class ProgressShown(BaseModel):
    """How far a running export is: first the data is ``reading``, then its file is ``writing``."""

    phase: str
    since: datetime
    seconds_left: float | None
    collections: list[CollectionProgress]


class ErrorShown(BaseModel):
    """Why an export has failed."""

    code: str
    message: str


class Links(BaseModel):
    """Where to go from an export."""

    self: str
    download: str | None
    manifest: str | None


class Export(BaseModel):
    """An export, without whom it is about."""

    id: str
    app_id: str
    status: Status
    format: str
    encrypted: bool
    people: int
    requested_by: str
    requested_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    updated_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    attempt: int
    documents_done: int
    documents_total: int | None
    bytes_written: int
    bytes: int | None
    sha256: str | None
    progress: ProgressShown | None
    error: ErrorShown | None
    links: Links
    retry_after: float | None = Field(None, description="Ask again after this many seconds; null where it has ended.")


class Page(BaseModel):
    """A page of the history, the newest first."""

    exports: list[Export]
    next: str | None = Field(description="The cursor of the next page; null on the last one.")


def export_shown(request: Request, url: str, now: datetime, *, ready: bool, retry_after: float | None = None) -> Export:
    """Return what a caller sees of a row; ``url`` is its own, ``ready`` says whether it has a file to fetch."""
    return Export(
        **{name: getattr(request, name) for name in _AS_THEY_ARE},
        format=str(request.options.get("format")),
        encrypted=is_encrypted(write_options(request.options)),
        people=request.most_people,
        bytes=request.result_bytes,
        sha256=request.result_sha256,
        progress=_progress(request, now),
        error=_error(request),
        links=Links(
            self=url, download=f"{url}/download" if ready else None, manifest=f"{url}/manifest" if ready else None
        ),
        retry_after=retry_after,
    )


_AS_THEY_ARE = (
    *("id", "app_id", "status", "requested_by", "requested_at", "due_at", "started_at", "updated_at"),
    *("finished_at", "expires_at", "attempt", "documents_done", "documents_total", "bytes_written"),
)


def _progress(request: Request, now: datetime) -> ProgressShown | None:
    if not request.progress:
        return None
    left = time_left(request.progress, now)
    return ProgressShown(
        phase=request.progress["phase"],
        since=request.progress["since"],
        seconds_left=None if left is None else left.total_seconds(),
        collections=[
            CollectionProgress(name=name, documents_expected=row[0], documents_done=row[1], bytes_done=row[2])
            for name, row in request.progress["collections"].items()
        ],
    )


def _error(request: Request) -> ErrorShown | None:
    if request.error_code is None:
        return None
    # Passing faults are the surroundings', and their messages say where those are.
    told = request.error_code not in PASSING and request.error_message
    message = told or "a part of the installation did not answer; its operator's log says more"
    return ErrorShown(code=request.error_code, message=message)
