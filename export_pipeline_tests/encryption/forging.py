"""Files of age made by hand, with nothing of the package: an independent writer, for headers that no writer makes."""

import hashlib
import hmac
from base64 import b64encode

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

FILE_KEY = b"sixteen bytes..."
NONCE = b"sixteen others.."
VERSION = b"age-encryption.org/v1\n"


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(salt, key, "sha256")
    return hmac.digest(extracted, info + b"\1", "sha256")


def base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def mac(covered: bytes) -> bytes:
    return base64(hmac.digest(hkdf(FILE_KEY, bytes(32), b"header"), covered, "sha256"))


def header(stanzas: bytes) -> bytes:
    """A header with a MAC that fits, around whatever ``stanzas`` is."""
    covered = VERSION + stanzas + b"---"
    return covered + b" " + mac(covered) + b"\n"


def chunk(number: int, content: bytes, last: bool) -> bytes:
    cipher = ChaCha20Poly1305(hkdf(FILE_KEY, NONCE, b"payload"))
    return cipher.encrypt(number.to_bytes(11, "big") + bytes([last]), content, None)


def file(stanzas: bytes, content: bytes = b"plain") -> bytes:
    """A file of one chunk."""
    return header(stanzas) + NONCE + chunk(0, content, last=True)


def scrypt_body(passphrase: bytes, salt: bytes, work_factor: int, file_key: bytes = FILE_KEY) -> bytes:
    key = hashlib.scrypt(
        passphrase, salt=b"age-encryption.org/v1/scrypt" + salt, n=1 << work_factor, r=8, p=1, maxmem=1 << 28
    )
    return base64(ChaCha20Poly1305(key[:32]).encrypt(bytes(12), file_key, None))


def x25519_body(shared: bytes, share: bytes, recipient: bytes, file_key: bytes = FILE_KEY) -> bytes:
    key = hkdf(shared, share + recipient, b"age-encryption.org/v1/X25519")
    return base64(ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None))
