"""Raw BSON documents end to end: counting, cutting and reading them in pieces, without decoding them.

bsonspec.org: a document begins with its length as a little-endian int32 and ends with a zero byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import BinaryIO

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

from export_pipeline.errors import IncompleteError

PIECE_BYTES = 4 << 20
"""How much is in memory at once; one document may be up to 16 MB."""

ANYTHING = CodecOptions[RawBSONDocument](
    document_class=RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)
"""To look at one field, the others must be readable whatever they hold: odd dates, damaged text.

Damaged text becomes lone surrogates, and no uid has those (``requests.models``), so it never equals one.
"""

_length = Struct("<i").unpack_from
_SMALLEST = 5


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole documents end to end, with the offsets at which each begins."""

    data: bytes
    offsets: list[int]

    def __len__(self) -> int:
        return len(self.offsets)

    def size(self, begin: int, end: int) -> int:
        """Return how many bytes the documents from number ``begin`` up to ``end`` take."""
        return self._offset(end) - self.offsets[begin]

    def cut(self, begin: int, end: int) -> "Piece":
        """Return the documents from number ``begin`` up to ``end``."""
        if (begin, end) == (0, len(self)):
            return self
        start = self.offsets[begin]
        return Piece(self.data[start : self._offset(end)], [offset - start for offset in self.offsets[begin:end]])

    def _offset(self, number: int) -> int:
        return self.offsets[number] if number < len(self) else len(self.data)

    @property
    def first(self) -> bytes:
        """The first document."""
        return self.data[: self.offsets[1]] if len(self.offsets) > 1 else self.data

    @property
    def last(self) -> bytes:
        """The last document."""
        return self.data[self.offsets[-1] :]


def whole_documents(data: bytes) -> tuple[list[int], int]:
    """Return the offsets of the documents that lie wholly in ``data``, and where the last of them ends."""
    offsets: list[int] = []
    position, size = 0, len(data)
    while position + _SMALLEST <= size:
        length = _length(data, position)[0]
        if length < _SMALLEST:
            raise IncompleteError("a document's length is damaged; the slice must be read again")
        if position + length > size:
            break
        offsets.append(position)
        position += length
    return offsets, position


def documents(data: bytes) -> Iterator[bytes]:
    """Yield each of the whole documents in ``data``. Raises IncompleteError for a rest that is none."""
    offsets, end = whole_documents(data)
    if end != len(data):
        raise IncompleteError("a batch ends in the middle of a document")
    for start, stop in pairwise([*offsets, end]):
        yield data[start:stop]


def view(document: bytes) -> RawBSONDocument:
    """Return a view of one document that decodes its top-level fields when asked, and the nested ones when they are."""
    return RawBSONDocument(document, ANYTHING)


def pieces(file: BinaryIO, offset: int, length: int) -> Iterator[Piece]:
    """Yield the documents in ``length`` bytes of ``file`` from ``offset``, piece by piece.

    Raises IncompleteError if the range does not hold whole documents to its end.
    """
    file.seek(offset)
    rest, left = b"", length
    while left or rest:
        data = rest + file.read(min(PIECE_BYTES, left))
        read = len(data) - len(rest)
        left -= read
        offsets, end = whole_documents(data)
        if offsets:
            yield Piece(data[:end], offsets)
        elif not read:
            raise IncompleteError("a slice ends in the middle of a document; it must be read again")
        rest = data[end:]
