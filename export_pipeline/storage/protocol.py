"""What every storage can do. Keys are relative paths with '/' between their segments.

Invariant that the rest leans on: a key either does not exist or holds a whole file that was committed.
"""

import re
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from export_pipeline.errors import BadInputError

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.{}-]{0,199}")


class PendingFile(Protocol):
    """A file being written; nobody sees it before ``commit``."""

    def write(self, data: bytes) -> int:
        """Append ``data``."""

    def tell(self) -> int:
        """Return how many bytes have been written."""

    def read_back(self) -> AbstractContextManager[BinaryIO]:
        """Open what has been written so far, for verifying it."""

    def commit(self) -> None:
        """Make the file visible under its key, whole, replacing what was there."""


class Storage(Protocol):
    """A place for files. All methods raise StorageError that says which file and why."""

    def create(self, key: str) -> AbstractContextManager[PendingFile]:
        """Begin a file; leaving the block without ``commit`` leaves nothing behind."""

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open a committed file for reading; it can seek."""

    def exists(self, key: str) -> bool:
        """Tell whether a committed file has this key."""

    def delete(self, prefix: str) -> None:
        """Remove the file or folder at ``prefix``; nothing there is not an error."""

    def locate(self, key: str) -> str:
        """Return where people and other programs find the file: a path or a URL."""


def checked_key(key: str) -> str:
    """Return ``key`` if every segment of it is a plain name; otherwise raise BadInputError.

    Keys are built from ids that came from outside; this is the last line that keeps them inside the root.
    """
    if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise BadInputError("a storage key has a segment that is not a plain name (letters, digits, '_', '-', '.')")
    return key
