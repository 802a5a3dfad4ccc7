"""Tokens: random secrets that let a program or a person act in an app. Only their hashes are kept.

A token reads ``ep_<id>_<secret>``: the id names it in lists and in the history, the secret has 256 bits.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, insert, select, update

from export_pipeline.access.roles import Permission, Role, check_scope, permissions_of
from export_pipeline.errors import BadInputError
from export_pipeline.requests.batches import new_id
from export_pipeline.requests.database import database_errors
from export_pipeline.requests.models import ALL_APPS
from export_pipeline.requests.rows import may_be_id, now
from export_pipeline.requests.schema import access_tokens

LONGEST_LABEL = 200
LONGEST_LIFE = timedelta(days=3650)
USE_IS_NOTED_EVERY = timedelta(minutes=1)

_LONGEST_TOKEN = 200
_columns = access_tokens.c


class UnknownTokenError(BadInputError):
    """No token has this id."""

    code = "unknown_token"


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; its secret is not."""

    id: str
    app_id: str
    role: Role
    label: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @property
    def actor(self) -> str:
        """How histories name whoever uses it."""
        return f"token:{self.id}"

    def may(self, permission: Permission) -> bool:
        """Tell whether its role may do this."""
        return permission in permissions_of(self.role)

    def reaches(self, app_id: str) -> bool:
        """Tell whether it is for this app."""
        return self.app_id in (ALL_APPS, app_id)

    def state(self, at: datetime) -> Literal["valid", "expired", "revoked"]:
        """Return whether it serves at that moment, or why not."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.expires_at is None or at < self.expires_at else "expired"


class TokenStore:
    """The table of tokens."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self, app_id: str, role: Role, *, lives: timedelta | None, label: str = "", created_by: str
    ) -> tuple[Token, str]:
        """Make a token for an app, or for all with ``*``; return it with its text, which is told only now.

        ``lives`` is None for one that does not expire. Raises BadInputError for what is not allowed.
        """
        check_scope(app_id)
        if len(label) > LONGEST_LABEL or not label.isprintable():
            raise BadInputError(f"label: expected at most {LONGEST_LABEL} printable characters")
        if lives is not None and not timedelta(seconds=1) <= lives <= LONGEST_LIFE:
            raise BadInputError(f"expires: expected a second to {LONGEST_LIFE.days:,} days")
        at, token_id = now(), new_id()
        text = f"ep_{token_id.replace('-', '')}_{secrets.token_urlsafe(32)}"
        token = Token(token_id, app_id, role, label, at, created_by, at + lives if lives else None, None, None)
        row = {"secret_sha256": hash_of(text)} | {name: getattr(token, name) for name in Token.__slots__}
        with database_errors(), self._engine.begin() as connection:
            connection.execute(insert(access_tokens), row)
        return token, text

    def find(self, text: str) -> Token | None:
        """Return the token with this text, valid or not; None for one that was never made."""
        if len(text) > _LONGEST_TOKEN or not may_be_id(text):
            return None
        # Found by its hash, so what the search takes says nothing about the secrets that there are.
        presented = hash_of(text)
        with self._reading() as connection:
            row = connection.execute(_query(_columns.secret_sha256 == presented, secret=True)).mappings().first()
        if row is None or not hmac.compare_digest(row["secret_sha256"], presented):
            return None
        return _token(row)

    def get(self, token_id: str) -> Token:
        """Return a token. Raises UnknownTokenError."""
        if may_be_id(token_id):
            with self._reading() as connection:
                row = connection.execute(_query(_columns.id == token_id)).mappings().first()
            if row is not None:
                return _token(row)
        raise UnknownTokenError("no token has this id; 'export-pipeline token list' shows them")

    def page(self, *, app_id: str | None = None, before: str | None = None, limit: int | None = None) -> list[Token]:
        """Return tokens, of one app or of all, the newest first; those older than the token ``before``."""
        where = [] if app_id is None else [_columns.app_id == app_id]
        older = [] if before is None else [_columns.id < before]
        with self._reading() as connection:
            rows = connection.execute(_query(*where, *older).order_by(_columns.id.desc()).limit(limit)).mappings()
            return [_token(row) for row in rows]

    def revoke(self, token_id: str) -> None:
        """Revoke a token for good; once more is no error. Raises UnknownTokenError."""
        self.get(token_id)
        not_yet = update(access_tokens).where(_columns.id == token_id, _columns.revoked_at.is_(None))
        with database_errors(), self._engine.begin() as connection:
            connection.execute(not_yet.values(revoked_at=now()))

    def note_use(self, token: Token) -> None:
        """Record that a token was used just now, where that was not recorded within the last minute."""
        at = now()
        if token.last_used_at is not None and at - token.last_used_at < USE_IS_NOTED_EVERY:
            return
        with database_errors(), self._engine.begin() as connection:
            connection.execute(update(access_tokens).where(_columns.id == token.id).values(last_used_at=at))

    def _reading(self) -> Any:
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def hash_of(text: str) -> str:
    """Return a token's SHA-256, in hex. It has 256 random bits, so nothing slower is needed to keep it from a guess."""
    return hashlib.sha256(text.encode()).hexdigest()


def _query(*where: ColumnElement[bool], secret: bool = False) -> Any:
    columns = [_columns[name] for name in Token.__slots__]
    return select(*columns, *([_columns.secret_sha256] if secret else [])).where(*where)


def _token(row: Any) -> Token:
    return Token(**{name: row[name] for name in Token.__slots__} | {"role": Role(row["role"])})
