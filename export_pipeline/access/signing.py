"""What is handed out and has to come back unchanged: links and cursors, signed with the installation's secret key."""

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from export_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from itsdangerous import URLSafeTimedSerializer

LONGEST_SIGNED = 4096
"""In characters; what is longer was not made here."""


class SignatureError(BadInputError):
    """This was not signed here for this purpose, or was changed on its way, or is too old."""

    code = "signature"


class Signer:
    """Signs small JSON values, as text for a URL, for one purpose: what was signed for another does not pass."""

    def __init__(self, secret_key: str, purpose: str) -> None:
        self._purpose = purpose
        self._serializer = _serializer(secret_key, purpose)

    def sign(self, value: Any) -> str:
        """Return a JSON value as signed text; everybody can read it."""
        return str(self._serializer.dumps(value))

    def read(self, text: str, max_age: timedelta | None = None) -> Any:
        """Return what was signed. Raises SignatureError; itsdangerous compares in constant time."""
        from itsdangerous import BadData, SignatureExpired

        seconds = None if max_age is None else int(max_age.total_seconds())
        if len(text) > LONGEST_SIGNED or not text.isascii():
            raise SignatureError(f"{self._purpose}: this was not made here")
        try:
            return self._serializer.loads(text, max_age=seconds)
        except SignatureExpired:
            raise SignatureError(f"{self._purpose}: this is too old; begin again") from None
        except BadData:
            raise SignatureError(f"{self._purpose}: this was not made here, or was changed on its way") from None


def _serializer(secret_key: str, purpose: str) -> "URLSafeTimedSerializer":
    from itsdangerous import URLSafeTimedSerializer

    return URLSafeTimedSerializer(
        secret_key,
        salt=f"export_pipeline {purpose}",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
