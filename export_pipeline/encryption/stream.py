"""The payload of an age file: chunks of 64 KiB, each sealed on its own, the last one marked as such.

Written by pushing, read from any position. After https://c2sp.org/age, "Payload"; headers are not known here.
"""

import io
from typing import TYPE_CHECKING, BinaryIO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from export_pipeline.errors import IncompleteError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 64 << 10
"""Bytes of plain content in each chunk but the last, which has fewer, and none only where all is empty."""
TAG = 16
SEALED_CHUNK = CHUNK + TAG


class Sink(Protocol):
    """Where a writer puts its bytes."""

    def write(self, data: bytes) -> int:
        """Append ``data``."""


class PayloadWriter:
    """Seals what is written and pushes it into ``sink``; at most one chunk waits in memory."""

    def __init__(self, sink: Sink, key: bytes) -> None:
        self._sink = sink
        self._cipher = ChaCha20Poly1305(key)
        self._put_down_so_far = 0
        self._waiting = bytearray()
        self._length = 0
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data``; return how many bytes that is."""
        if self._closed:
            raise ValueError("the age file is closed, or could not be written")
        rest = memoryview(data).cast("B")
        length = len(rest)
        self._length += length
        while rest:
            # A full chunk waits until more comes: the last one is marked, and may not be empty.
            if len(self._waiting) == CHUNK:
                self._put_down(last=False)
            room = CHUNK - len(self._waiting)
            self._waiting += rest[:room]
            rest = rest[room:]
        return length

    def tell(self) -> int:
        """Return how many plain bytes have been written."""
        return self._length

    def close(self) -> None:
        """Put down the last chunk. The sink stays open; closing again does nothing."""
        if not self._closed:
            self._put_down(last=True)

    def _put_down(self, *, last: bool) -> None:
        sealed = self._cipher.encrypt(_nonce(self._put_down_so_far, last=last), self._waiting, None)
        self._closed = True  # until the sink has it all: after a failure nothing follows, and the file has no end
        self._sink.write(sealed)
        self._closed = last
        self._put_down_so_far += 1
        self._waiting.clear()


class PayloadReader(io.RawIOBase):
    """The plain content of the payload that begins at ``file``'s position and goes to its end. It can seek.

    The last chunk is opened first, so the size is never an unproven one. Raises IncompleteError, then or when the
    place is read, where the file is not what was written: changed, cut short, or longer. ``name`` is what errors call
    the file. Closing leaves ``file`` open.
    """

    def __init__(self, file: BinaryIO, key: bytes, *, name: str) -> None:
        self._file = file
        self._cipher = ChaCha20Poly1305(key)
        self._name = name
        self._start = file.tell()
        sealed_bytes = file.seek(0, io.SEEK_END) - self._start
        self._last, self._end = self._open_end(sealed_bytes)
        self._size = self._last * CHUNK + len(self._end)
        self._position = 0
        self._kept_number = -1
        self._kept = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in the plain content; return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill ``buffer`` as far as one chunk goes; return how many bytes that is, 0 at the end."""
        if self._position >= self._size:
            return 0
        number, offset = divmod(self._position, CHUNK)
        view = memoryview(buffer).cast("B")
        piece = memoryview(self._chunk(number))[offset : offset + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def readall(self) -> bytes:
        """Return all from here to the end."""
        content = bytearray(max(0, self._size - self._position))
        view = memoryview(content)
        while view:
            view = view[self.readinto(view) :]
        return bytes(content)

    def _chunk(self, number: int) -> bytes:
        if number == self._last:
            return self._end
        if number != self._kept_number:
            try:
                self._kept = self._unseal(number, SEALED_CHUNK, last=False)
            except InvalidTag:
                raise IncompleteError(
                    f"{self._name}: it was changed after it was written, within the 64 KiB from byte {number * CHUNK} "
                    "of its content; take it from where it came from again"
                ) from None
            self._kept_number = number
        return self._kept

    def _open_end(self, sealed_bytes: int) -> tuple[int, bytes]:
        last = max(0, sealed_bytes - 1) // SEALED_CHUNK
        length = sealed_bytes - last * SEALED_CHUNK
        try:
            content = self._unseal(last, length, last=True)
        except InvalidTag:
            raise self._wrong_end() from None
        if last > 0 and not content:
            raise self._wrong_end()
        return last, content

    def _unseal(self, number: int, length: int, *, last: bool) -> bytes:
        self._file.seek(self._start + number * SEALED_CHUNK)
        return self._cipher.decrypt(_nonce(number, last=last), self._file.read(length), None)

    def _wrong_end(self) -> IncompleteError:
        return IncompleteError(
            f"{self._name}: its end is not the one that was written: it was cut short, made longer or changed; take it "
            "from where it came from again"
        )


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")
