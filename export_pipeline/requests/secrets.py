"""What must be kept for a while and then forgotten: the key of a batch's slices, the passphrase of a request.

They lie in the requests table's database, away from the storage: who gets hold of one of the two reads nothing.
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, delete, insert, select

from export_pipeline.errors import BadInputError
from export_pipeline.requests.database import database_errors
from export_pipeline.requests.schema import kept_secrets

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


class SecretStore:
    """Secrets by their owner, the id of a batch or a request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def keep(self, owner: str, secret: str) -> None:
        """Keep a secret; it takes the place of the owner's former one."""
        with database_errors(), self._engine.begin() as connection:
            keep_secret(connection, owner, secret)

    def find(self, owner: str) -> str | None:
        """Return the owner's secret; None where there is none, or it was forgotten."""
        query = select(kept_secrets.c.secret).where(kept_secrets.c.owner == owner)
        with database_errors(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return connection.execute(query).scalar()

    def forget(self, owners: Sequence[str]) -> None:
        """Forget the owners' secrets."""
        with database_errors(), self._engine.begin() as connection:
            forget_secrets(connection, owners)


def keep_secret(connection: Connection, owner: str, secret: str) -> None:
    """Keep a secret within a transaction."""
    forget_secrets(connection, [owner])
    connection.execute(insert(kept_secrets), {"owner": owner, "secret": secret, "kept_at": datetime.now(UTC)})


def forget_secrets(connection: Connection, owners: Sequence[str]) -> None:
    """Forget secrets within a transaction."""
    connection.execute(delete(kept_secrets).where(kept_secrets.c.owner.in_(owners)))


def seal(text: str, secret_key: str) -> str:
    """Return ``text`` such that only ``unseal`` with the same key reads it."""
    return _fernet(secret_key).encrypt(text.encode()).decode()


def unseal(sealed: str, secret_key: str) -> str:
    """Return what was sealed. Raises BadInputError where it was sealed with another key."""
    from cryptography.fernet import InvalidToken

    try:
        return _fernet(secret_key).decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise BadInputError(
            "a passphrase was kept under another EXPORT_PIPELINE_SECRET_KEY than the present one; ask for it anew"
        ) from None


def _fernet(secret_key: str) -> "Fernet":
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(SHA256(), 32, salt=None, info=b"export_pipeline kept secrets").derive(secret_key.encode())
    return Fernet(base64.urlsafe_b64encode(key))
