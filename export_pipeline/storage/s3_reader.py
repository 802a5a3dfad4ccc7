"""An object in S3 as a file that can seek.

What is read ahead is bounded: it begins small after each jump and grows while reading goes straight on, so that a
long sequential read is a few long answers and a random one wastes little.
"""

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from export_pipeline.errors import StorageError
from export_pipeline.storage.s3_client import Bucket

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.response import StreamingBody

FIRST_WINDOW = 1 << 20
GROWTH = 4
BUFFER_BYTES = 1 << 18
RESUMES = 3
"""How often in a row an answer that breaks off is asked for again, from where it broke off."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of an object."""

    bucket: Bucket
    key: str
    etag: str
    size: int


def open_object(found: StoredObject) -> BinaryIO:
    """Open that version for reading; StorageError as soon as the key holds another one."""
    return cast("BinaryIO", io.BufferedReader(_ObjectReader(found), BUFFER_BYTES))


class _ObjectReader(io.RawIOBase):
    def __init__(self, found: StoredObject) -> None:
        self._found = found
        self._position = 0
        self._answer: _Answer | None = None
        self._window = FIRST_WINDOW

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._found.size}[whence]
        if begin + offset < 0:
            raise ValueError("a position before the beginning of the file")
        self._position = begin + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        view = memoryview(buffer).cast("B")
        if not view or self._position >= self._found.size:
            return 0
        broken: Exception | None = None
        for _ in range(1 + RESUMES):
            answer = self._answer_here()
            try:
                answer.skip_to(self._position)
                count = answer.readinto(view)
            except (BotoCoreError, HTTPError, OSError) as error:
                broken = error
                answer.close()
                self._answer = None
                continue
            self._position += count
            return count
        raise StorageError(
            f"{self._found.bucket.locate(self._found.key)}: reading broke off {1 + RESUMES} times in a row; check the "
            f"network, then begin again ({type(broken).__name__})"
        ) from broken

    def readall(self) -> bytes:
        parts = []
        while part := self.read(FIRST_WINDOW):
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        self._let_go()
        super().close()

    def _answer_here(self) -> "_Answer":
        """Return an answer that holds the byte at the current position."""
        if self._answer is not None:
            if self._answer.reaches(self._position):
                return self._answer
            straight_on = self._position == self._answer.end
            self._window = self._window * GROWTH if straight_on else FIRST_WINDOW
            self._let_go()
        self._answer = self._ask(self._position, min(self._position + self._window, self._found.size))
        return self._answer

    def _ask(self, begin: int, end: int) -> "_Answer":
        found = self._found
        with found.bucket.errors(found.key):
            response = found.bucket.client.get_object(
                Bucket=found.bucket.name, Key=found.key, Range=f"bytes={begin}-{end - 1}", IfMatch=found.etag
            )
        answer = _Answer(response["Body"], begin, end)
        # Not every store knows If-Match, and one that does not know Range would answer with the whole.
        if response["ETag"] != found.etag or response["ContentLength"] != end - begin:
            answer.close()
            raise StorageError(
                f"{found.bucket.locate(found.key)}: the file was replaced while it was read; begin again"
            )
        return answer

    def _let_go(self) -> None:
        if self._answer is not None:
            self._answer.finish()
            self._answer = None


class _Answer:
    """What is still to come of one GET: the bytes from ``position`` to ``end`` of the object."""

    def __init__(self, body: "StreamingBody", position: int, end: int) -> None:
        self._body = body
        self._position = position
        self.end = end

    def reaches(self, position: int) -> bool:
        return self._position <= position < min(self.end, self._position + FIRST_WINDOW + 1)

    def skip_to(self, position: int) -> None:
        while self._position < position:
            self._position += len(self._body.read(position - self._position))

    def readinto(self, view: memoryview) -> int:
        # Never empty: an answer that ends before its length raises.
        data = self._body.read(min(len(view), self.end - self._position))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def finish(self) -> None:
        """End the answer; where little is left, read it, because only then the connection serves again."""
        if self.end - self._position <= FIRST_WINDOW:
            with suppress(Exception):
                self._body.read()
        self.close()

    def close(self) -> None:
        self._body.close()
