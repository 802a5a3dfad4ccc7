"""A person's session: their token, encrypted in a cookie that scripts cannot read and other sites cannot send."""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken
from fastapi import Request, Response

from export_pipeline.gateway.services import Services, secret_key
from export_pipeline.settings import Settings

SERVES = timedelta(hours=12)
"""A session ends then, used or not."""

_LONGEST_COOKIE = 4096


@dataclass(frozen=True, slots=True)
class Session:
    """What the cookie holds; before the login there is no token."""

    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Every form of the session sends it back; other sites cannot know it."""
    token: str | None = field(default=None, repr=False)


def read_session(here: Services, request: Request) -> Session | None:
    """Return the session that a request comes with; None without one, or with one that is over."""
    text = request.cookies.get(_name(here.settings, request), "")
    if not text or len(text) > _LONGEST_COOKIE or not text.isascii():
        return None
    try:
        return Session(**json.loads(_cipher(here).decrypt(text, ttl=int(SERVES.total_seconds()))))
    except InvalidToken:
        return None


def put_session(here: Services, request: Request, response: Response, session: Session) -> None:
    """Give a session to the browser."""
    _set(here, request, response, _cipher(here).encrypt(json.dumps(asdict(session)).encode()).decode(), SERVES)


def end_session(here: Services, request: Request, response: Response) -> None:
    """Have the browser forget its session."""
    _set(here, request, response, "", timedelta(0))


def root_of(settings: Settings) -> str:
    """Return what stands before each path of ours where people reach us: '' or '/exports'."""
    return urlsplit(settings.public_url or "").path.rstrip("/")


def _set(here: Services, request: Request, response: Response, value: str, lives: timedelta) -> None:
    response.set_cookie(
        _name(here.settings, request),
        value,
        max_age=int(lives.total_seconds()),
        path=root_of(here.settings) or "/",
        secure=_is_secure(here.settings, request),
        httponly=True,
        samesite="strict",
    )


def _name(settings: Settings, request: Request) -> str:
    # Browsers take a cookie of such a name from this very host alone, and only with TLS.
    is_host = _is_secure(settings, request) and not root_of(settings)
    return "__Host-export_pipeline" if is_host else "export_pipeline"


def _is_secure(settings: Settings, request: Request) -> bool:
    return request.url.scheme == "https" or (settings.public_url or "").startswith("https:")


def _cipher(here: Services) -> Fernet:
    key = hmac.digest(secret_key(here.settings).encode(), b"export_pipeline session", hashlib.sha256)
    return Fernet(base64.urlsafe_b64encode(key))
