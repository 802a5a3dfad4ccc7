"""What every storage can do. Keys are relative paths with '/' between their segments.

Invariant that the rest leans on: a key either does not exist or holds a whole file that was committed.
"""

import re
import secrets
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import BinaryIO, Protocol

from export_pipeline.errors import BadInputError

_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.partial", re.DOTALL)
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.{}-]{0,199}")


class PendingFile(Protocol):
    """A file being written; nobody sees it before ``commit``."""

    def write(self, data: bytes) -> int:
        """Append ``data``."""

    def tell(self) -> int:
        """Return how many bytes have been written."""

    def read_back(self) -> AbstractContextManager[BinaryIO]:
        """Open what was written, for verifying it; write nothing after it, because S3 takes no more then."""

    def commit(self) -> None:
        """Make the file visible under its key, whole, replacing what was there."""


class Storage(Protocol):
    """A place for files. All methods raise StorageError that says which file and why."""

    def create(self, key: str) -> AbstractContextManager[PendingFile]:
        """Begin a file; leaving the block without ``commit`` leaves nothing behind.

        Only what a crash, or a store that no longer answers, keeps from being removed is left to ``sweep``.
        """

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open a committed file for reading; it can seek."""

    def exists(self, key: str) -> bool:
        """Tell whether a committed file has this key."""

    def delete(self, prefix: str) -> None:
        """Remove the file or folder at ``prefix``; nothing there is not an error."""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the folder ``prefix``, sorted; none where it is not there."""

    def locate(self, key: str) -> str:
        """Return where people and other programs find the file: a path or a URL."""

    def link(self, key: str, expires: timedelta, filename: str, content_type: str) -> str | None:
        """Return a URL by which anybody may download the file until it expires; None where there are no such links.

        A browser saves it as ``filename``. Whether there is a file is not looked up.
        """

    def sweep(self, older_than: timedelta) -> list[str]:
        """Remove what crashed writers left, where it is that old; return which keys were removed.

        ``older_than`` has to be more than the longest time that a file takes to be written.
        """


def checked_key(key: str) -> str:
    """Return ``key`` if every segment of it is a plain name; otherwise raise BadInputError.

    Keys are built from ids that came from outside; this is the last line that keeps them inside the root.
    """
    if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise BadInputError("a storage key has a segment that is not a plain name (letters, digits, '_', '-', '.')")
    return key


def aside_name(name: str) -> str:
    """Return the name, unused so far, of what is to become the file ``name``; no segment of a key looks like it."""
    return f".{name}.{secrets.token_hex(4)}.partial"


def is_aside(name: str) -> bool:
    """Tell whether ``aside_name`` made this name."""
    return _ASIDE.fullmatch(name) is not None
