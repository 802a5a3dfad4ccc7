"""Checking files by reading them back."""

import hashlib
from typing import BinaryIO

_CHUNK = 1 << 20


def sha256_of(file: BinaryIO) -> str:
    """Return the hex SHA-256 of ``file`` from its beginning to its end."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
