"""Links for the person whose data it is: signed, expiring, revocable, and on demand good for one download.

The signature keeps guesses away from the table; the row decides.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, insert, select, update

from export_pipeline.access.signing import SignatureError, Signer
from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.database import database_errors
from export_pipeline.requests.rows import may_be_id, now
from export_pipeline.requests.schema import download_links

_columns = download_links.c


class UnknownLinkError(BadInputError):
    """No link has this id, or this text was never one."""

    code = "unknown_link"


class LinkOverError(ExportPipelineError):
    """The link was good once: it has expired, was revoked, or has been used."""

    code = "link_over"


@dataclass(frozen=True, slots=True)
class Link:
    """A row of the table of links."""

    id: str
    request_id: str
    created_at: datetime
    created_by: str
    expires_at: datetime
    one_time: bool
    used_at: datetime | None
    revoked_at: datetime | None

    @property
    def actor(self) -> str:
        """How histories name whoever uses it."""
        return f"link:{self.id}"

    def why_over(self, at: datetime) -> str | None:
        """Return why it does not serve at that moment any more; None while it does."""
        if self.revoked_at is not None:
            return "has been revoked"
        if at >= self.expires_at:
            return "has expired"
        return "was for one download, which has been made" if self.one_time and self.used_at else None


class LinkStore:
    """The table of links, and their texts."""

    def __init__(self, engine: Engine, secret_key: str) -> None:
        self._engine = engine
        self._signer = Signer(secret_key, "link")

    def create(self, request_id: str, *, expires_at: datetime, one_time: bool, created_by: str) -> tuple[Link, str]:
        """Make a link to a request's package; return it with the text that follows ``/d/`` in its URL."""
        at = now()
        if expires_at <= at:
            raise BadInputError("link: its end must lie in the future, and before that of the package")
        link = Link(new_id(), request_id, at, created_by, expires_at, one_time, None, None)
        with database_errors(), self._engine.begin() as connection:
            connection.execute(insert(download_links), {name: getattr(link, name) for name in Link.__slots__})
        return link, self._signer.sign(link.id)

    def open(self, text: str) -> Link:
        """Return the link with this text. Raises UnknownLinkError, or LinkOverError where it serves no more."""
        try:
            link = self.get(str(self._signer.read(text)))
        except SignatureError:
            raise UnknownLinkError("this is no link, or not the whole of it; copy it again") from None
        why_over = link.why_over(now())
        if why_over is not None:
            raise LinkOverError(f"this link {why_over}; ask for a new one")
        return link

    def use(self, link: Link) -> None:
        """Record a download; of two at once of a one-time link, the second gets LinkOverError."""
        serves = [_columns.id == link.id, _columns.revoked_at.is_(None), _columns.expires_at > now()]
        if link.one_time:
            serves.append(_columns.used_at.is_(None))
        with database_errors(), self._engine.begin() as connection:
            used = connection.execute(update(download_links).where(*serves).values(used_at=now()))
        if used.rowcount == 0:
            raise LinkOverError(
                "this link has just ended, or was for one download, which has been made; ask for a new one"
            )

    def get(self, link_id: str) -> Link:
        """Return a link. Raises UnknownLinkError."""
        if may_be_id(link_id):
            query = select(*(_columns[name] for name in Link.__slots__)).where(_columns.id == link_id)
            with database_errors(), self._reading() as connection:
                row = connection.execute(query).mappings().first()
            if row is not None:
                return Link(**row)
        raise UnknownLinkError("no link has this id")

    def revoke(self, link_id: str) -> None:
        """Revoke a link for good; once more is no error. Raises UnknownLinkError."""
        self.get(link_id)
        self._revoke(_columns.id == link_id)

    def revoke_all(self, request_id: str) -> None:
        """Revoke all links to a request's package."""
        self._revoke(_columns.request_id == request_id)

    def _revoke(self, which: Any) -> None:
        with database_errors(), self._engine.begin() as connection:
            connection.execute(
                update(download_links).where(which, _columns.revoked_at.is_(None)).values(revoked_at=now())
            )

    def _reading(self) -> Any:
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
