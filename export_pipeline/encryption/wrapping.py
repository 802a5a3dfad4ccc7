"""A file's key, wrapped for a recipient or with a passphrase, and unwrapped again.

After https://c2sp.org/age, "X25519" and "scrypt". Stanzas of other kinds are left alone.
"""

import re
import secrets
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from export_pipeline.encryption.header import Stanza, damaged, derive, from_base64, to_base64
from export_pipeline.encryption.keys import KEY_BYTES, Identity, Recipient, WrongKeyError, new_identity
from export_pipeline.errors import BadInputError

FILE_KEY_BYTES = 16

WORK_FACTOR = 18
"""How hard a passphrase is to guess, as a power of two: about a second, and 256 MiB of memory while it lasts."""
MOST_WORK_FACTOR = 22
"""What a file may ask of its reader: 4 GiB. More would let a hostile file stop a machine."""

_X25519 = "X25519"
_X25519_LABEL = b"age-encryption.org/v1/X25519"
_SCRYPT = "scrypt"
_SCRYPT_LABEL = b"age-encryption.org/v1/scrypt"
_SALT_BYTES = 16
_BODY_BYTES = FILE_KEY_BYTES + 16
_NONCE = bytes(12)
"""Each wrapping key is used once, so it needs no nonce."""
_decimal = re.compile(r"[1-9][0-9]{0,8}")


def wrap_for_recipient(file_key: bytes, recipient: Recipient) -> Stanza:
    """Wrap the key so that the recipient's identity unwraps it."""
    once = new_identity()
    share = once.recipient.key
    wrapping_key = _recipients_key(once.shared_secret(recipient.key), share, recipient)
    return Stanza((_X25519, to_base64(share)), _wrap(wrapping_key, file_key))


def wrap_with_passphrase(file_key: bytes, passphrase: str, work_factor: int = WORK_FACTOR) -> Stanza:
    """Wrap the key so that the passphrase unwraps it. Raises BadInputError for a passphrase that is none."""
    salt = secrets.token_bytes(_SALT_BYTES)
    body = _wrap(_passphrase_key(passphrase, salt, work_factor), file_key)
    return Stanza((_SCRYPT, to_base64(salt), str(work_factor)), body)


def unwrap(stanzas: Sequence[Stanza], identities: Iterable[Identity], passphrase: str | None) -> bytes:
    """Return the file's key. Raises WrongKeyError where nothing at hand unwraps it, IncompleteError for damage."""
    if any(stanza.arguments[0] == _SCRYPT for stanza in stanzas):
        # Whoever opens a file with a passphrase takes it for one that nobody without the passphrase could have made.
        if len(stanzas) != 1:
            raise damaged("a passphrase that is not alone")
        return _unwrap_with_passphrase(stanzas[0], passphrase)
    identities = list(identities)
    for stanza in stanzas:
        if stanza.arguments[0] == _X25519:
            file_key = _unwrap_with_identities(stanza, identities)
            if file_key is not None:
                return file_key
    raise WrongKeyError(
        "none of the identities given opens it; give that of one of its recipients (a file with AGE-SECRET-KEY-1…)"
        if identities
        else "it opens with an identity (a file with AGE-SECRET-KEY-1…), and none was given"
    )


def _unwrap_with_identities(stanza: Stanza, identities: Sequence[Identity]) -> bytes | None:
    if len(stanza.arguments) != 2:
        raise damaged("a stanza's arguments")
    share = _argument(stanza, KEY_BYTES)
    for identity in identities:
        try:
            secret = identity.shared_secret(share)
        except ValueError:
            raise damaged("a share that fits every key") from None
        file_key = _unwrap(_recipients_key(secret, share, identity.recipient), stanza)
        if file_key is not None:
            return file_key
    return None


def _unwrap_with_passphrase(stanza: Stanza, passphrase: str | None) -> bytes:
    if len(stanza.arguments) != 3 or not _decimal.fullmatch(stanza.arguments[2]):
        raise damaged("a stanza's arguments")
    salt, work_factor = _argument(stanza, _SALT_BYTES), int(stanza.arguments[2])
    if passphrase is None:
        raise WrongKeyError("it opens with a passphrase, and none was given")
    if work_factor > MOST_WORK_FACTOR:
        raise BadInputError(
            f"opening it would take a work factor of {work_factor}, and {MOST_WORK_FACTOR} is the most that is "
            "allowed; have it sealed again with less"
        )
    file_key = _unwrap(_passphrase_key(passphrase, salt, work_factor), stanza)
    if file_key is None:
        raise WrongKeyError("the passphrase given does not open it")
    return file_key


def _recipients_key(shared_secret: bytes, share: bytes, recipient: Recipient) -> bytes:
    return derive(shared_secret, share + recipient.key, _X25519_LABEL)


def _passphrase_key(passphrase: str, salt: bytes, work_factor: int) -> bytes:
    try:
        text = passphrase.encode()
    except UnicodeEncodeError:
        raise BadInputError("passphrase: it holds characters that are not valid Unicode") from None
    if not text:
        raise BadInputError("passphrase: it is empty")
    return Scrypt(_SCRYPT_LABEL + salt, 32, n=1 << work_factor, r=8, p=1).derive(text)


def _argument(stanza: Stanza, length: int) -> bytes:
    value = from_base64(stanza.arguments[1].encode("ascii"))
    if len(value) != length:
        raise damaged("a stanza's arguments")
    return value


def _wrap(key: bytes, file_key: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(_NONCE, file_key, None)


def _unwrap(key: bytes, stanza: Stanza) -> bytes | None:
    # A longer body could be made to open with many keys at once, which tells an attacker about the right one.
    if len(stanza.body) != _BODY_BYTES:
        raise damaged("a stanza's body")
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, stanza.body, None)
    except InvalidTag:
        return None
