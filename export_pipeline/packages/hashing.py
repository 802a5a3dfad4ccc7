"""SHA-256 of files and of what is being written."""

import hashlib
import io
from collections.abc import Callable
from typing import Any, BinaryIO

CHUNK = 1 << 20


def sha256_of(file: BinaryIO) -> str:
    """Return the hex SHA-256 of ``file``, from where it stands to its end."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


class HashingSink(io.RawIOBase):
    """Counts and hashes what it passes on. An io object, since pyarrow writes to nothing less."""

    def __init__(self, *passes_to: Callable[[Any], object]) -> None:
        self._passes_to = passes_to
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        """Tell io that it can be written to."""
        return True

    def tell(self) -> int:
        """Return how many bytes have passed."""
        return self.size

    def write(self, data: Any) -> int:  # any bytes-like object, as io has it
        """Pass ``data`` on."""
        for pass_on in self._passes_to:
            pass_on(data)
        self._digest.update(data)
        self.size += len(data)
        return len(data)

    def sha256(self) -> str:
        """Return the hex SHA-256 of what has passed so far."""
        return self._digest.hexdigest()
