"""The keys of age: recipients, which are public and seal files, and identities, which are secret and open them.

X25519 alone. No error and no repr here holds any of a text that might be a secret.
"""

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from export_pipeline.encryption import bech32
from export_pipeline.errors import BadInputError, ExportPipelineError

KEY_BYTES = 32
_RECIPIENT = "age"
_IDENTITY = "AGE-SECRET-KEY-"


class WrongKeyError(ExportPipelineError):
    """None of the keys at hand opens the file."""

    code = "wrong_key"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom a file is sealed for. Its text, age1…, is what ``str`` gives."""

    key: bytes

    def __str__(self) -> str:
        return bech32.encode(_RECIPIENT, self.key)


class Identity:
    """What opens the files of ``recipient``. Only ``secret`` shows the secret; ``str`` and ``repr`` do not."""

    __slots__ = ("_key", "recipient")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.recipient = Recipient(X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw())

    @property
    def secret(self) -> str:
        """The identity as a line of an identity file, AGE-SECRET-KEY-1…, for storing it where nobody else reads."""
        return bech32.encode(_IDENTITY, self._key)

    def shared_secret(self, share: bytes) -> bytes:
        """Return what this identity and the owner of the public ``share`` alone can compute.

        Raises ValueError for a share that gives the same with everybody's key.
        """
        try:
            return X25519PrivateKey.from_private_bytes(self._key).exchange(X25519PublicKey.from_public_bytes(share))
        except ValueError:
            raise ValueError("it keeps nothing secret, whoever uses it") from None

    def __repr__(self) -> str:
        return f"<identity of {self.recipient}>"


def new_identity() -> Identity:
    """Return an identity that nobody else has."""
    return Identity(secrets.token_bytes(KEY_BYTES))


def parse_recipient(text: str) -> Recipient:
    """Return the recipient that ``text`` (age1…) names. Raises BadInputError that holds none of it."""
    text = text.strip()
    if _IDENTITY in text.upper():
        raise BadInputError(
            "recipient: this is a secret key, which opens files and must not be handed over to anybody; give the "
            "public one that belongs to it (age1…; 'age-keygen -y' prints it), and make a new pair if it was seen"
        )
    try:
        recipient = Recipient(_decode(text, _RECIPIENT))
        new_identity().shared_secret(recipient.key)
    except ValueError as error:
        raise BadInputError(
            f"recipient: this is no public key of age ({error}); give 'age1' with 58 more letters and digits. Other "
            "kinds (SSH keys, plugins, post-quantum keys) are not taken"
        ) from None
    return recipient


def parse_identities(text: str) -> list[Identity]:
    """Return the identities in the text of an identity file: one a line, with comments (#) and blank lines.

    Raises BadInputError that names the line, and holds nothing of it, for any other line, and if there is none.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    identities = [_parse_identity(line, number) for number, line in lines if line and not line.startswith("#")]
    if not identities:
        raise BadInputError(f"identity file: it holds no identity; one is a line that begins with {_IDENTITY}1")
    return identities


def _parse_identity(line: str, number: int) -> Identity:
    try:
        return Identity(_decode(line, _IDENTITY))
    except ValueError as error:
        raise BadInputError(
            f"identity file, line {number}: this is no identity ({error}); one begins with {_IDENTITY}1. Identities "
            "of plugins, SSH keys and identity files that are themselves encrypted are not taken"
        ) from None


def _decode(text: str, prefix: str) -> bytes:
    found, key = bech32.decode(text)
    if found != prefix:
        raise ValueError(f"it does not begin with {prefix}1")
    if len(key) != KEY_BYTES:
        raise ValueError("its length is not that of a key")
    return key
