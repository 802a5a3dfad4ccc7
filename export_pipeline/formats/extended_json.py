"""Raw BSON to MongoDB Extended JSON v2: a batch of documents in, bytes out.

All that the project knows of the encoder is in this module, so that a compiled one can take its place. Most documents
go through ``bson_shapes``, which is fast; what that cannot promise to write exactly goes through ``bson_walk``.
"""

# What it takes, as a multiple of draining find_raw_batches of the same 300,000 documents (2 cores, Python 3.11):
#
#   events, 560 bytes, 24 fields   relaxed 2.5   canonical 1.9
#   events, 650 bytes, 33 fields   relaxed 2.7   canonical 2.4
#   the same, all walked           relaxed 10    canonical 9
#
# Where every field may be missing the fast path takes two thirds of the walker's time; where names are data, as long.
# A third of the fast path is the regular expression and its groups, a third reading and checking them, a third
# writing; in relaxed mode dates, at 0.3 microseconds each, are the dearest values. orjson writes a column of doubles
# nine times as fast as float.__repr__. Decoding to dicts alone takes 3.5 to 4, and loses what this keeps.

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from export_pipeline.formats.bson_form import Form, NotWorthItError
from export_pipeline.formats.bson_shapes import Shape
from export_pipeline.formats.bson_walk import EncodingError, Mode, makes_place, quote, walk

__all__ = [
    "Encoded",
    "EncodingError",
    "Mode",
    "encode_batch",
    "encode_document",
    "encode_documents",
    "encode_lines",
    "encode_value",
]

_WINDOW = 128
"""Documents that are taken apart before they are written: enough for columns to pay, few enough for the cache."""

_LESSON = 32
"""How many of the documents that did not fit are learned from at once."""

_MISSED_SHARE = 16
"""Learning pays where more than one document in so many does not fit."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch as text."""

    data: bytes
    """The documents with the separator between them; no document has a line break inside."""
    documents: int
    renamed: int
    """Documents of which a field made place for the tag."""


def encode_batch(batch: bytes | memoryview, collection: str, mode: Mode, separator: bytes) -> Encoded:
    r"""Return the documents of ``batch`` (BSON end to end), each with the tag ``_col`` first.

    >>> from bson import encode
    >>> encode_batch(encode({"a": 1}) + encode({"_col": "mine"}), "events", "relaxed", b"\n").data
    b'{"_col":"events","a":1}\n{"_col":"events","__col":"mine"}'

    A field that is itself called ``_col``, ``__col`` and so on gets one more underscore, so that the tag can be taken
    off again. Raises EncodingError, which names the collection and the field, for what is not valid BSON.
    """
    chunks: list[bytes] = []
    documents = renamed = 0
    try:
        for window in _encoder(collection, mode, tagged=True).windows(bytes(batch)):
            chunks.append(separator.join(window.lines))
            documents += len(window.lines)
            renamed += window.renamed
    except EncodingError as error:
        raise EncodingError(f"collection {collection!r}: {error}") from None
    return Encoded(separator.join(chunks), documents, renamed)


def encode_lines(batch: bytes, collection: str, mode: Mode) -> list[bytes] | None:
    """Return what ``encode_batch`` would, one line for each document; None if one of them gave way to the tag.

    Many small batches are encoded in a fraction of the time if they are given as one. Raises EncodingError.
    """
    lines: list[bytes] = []
    for window in _encoder(collection, mode, tagged=True).windows(batch):
        if window.renamed:
            return None
        lines += window.lines
    return lines


def encode_documents(batch: bytes | memoryview, mode: Mode, collection: str | None = None) -> list[bytes]:
    """Return the documents of ``batch`` one by one and untagged. Raises EncodingError.

    To name their collection saves learning in each batch anew what its documents have in common.
    """
    encoder = _Encoder(None, mode) if collection is None else _encoder(collection, mode, tagged=False)
    return [line for window in encoder.windows(bytes(batch)) for line in window.lines]


def encode_document(document: bytes, mode: Mode) -> bytes:
    """Return one untagged document. Raises EncodingError.

    >>> from bson import encode
    >>> encode_document(encode({"a": 1}), "canonical")
    b'{"a":{"$numberInt":"1"}}'
    """
    members, end = walk(document, 0, mode)
    if end != len(document):
        raise EncodingError("a document is followed by other bytes")
    return _document(members)


def encode_value(kind: int, value: bytes, mode: Mode) -> bytes:
    r"""Return one value, given as its BSON type and bytes. Raises EncodingError.

    >>> encode_value(0x10, b"\x05\0\0\0", "canonical")
    b'{"$numberInt":"5"}'
    """
    size = len(value) + 7
    return encode_document(b"%b%c\0%b\0" % (size.to_bytes(4, "little"), kind, value), mode)[len('{"":') : -1]


def _document(members: list[str]) -> bytes:
    return ("{" + ",".join(members) + "}").encode()


@dataclass(slots=True)
class _Window:
    """Some hundred documents of a batch: their lines, how many gave way to the tag, and where the next begins."""

    lines: list[bytes]
    renamed: int
    end: int


class _Encoder:
    """Encodes the documents of one collection, and learns what they have in common as they come.

    Threads may share one: that they disturb each other's counts costs time and no more.
    """

    def __init__(self, tag: str | None, mode: Mode) -> None:
        self._tag = tag
        self._mode: Mode = mode
        self._form = Form(mode, tag)
        self._shape: Shape | None = None
        self._learning = Lock()
        # Since the last look at whether to learn: documents, and those that did not fit. Lessons become rarer.
        self._documents = self._missed = 0
        self._rest, self._next_rest = 0, 1

    def windows(self, data: bytes) -> Iterator[_Window]:
        position = 0
        while position < len(data):
            shape = self._shape
            window = (shape and self._by_shape(data, position, shape)) or self._by_walking(data, position)
            yield window
            position = window.end

    def _by_shape(self, data: bytes, start: int, shape: Shape) -> _Window | None:
        """Write a window by shape, walking what does not fit; return None if what seemed to fit does not."""
        match = shape.match
        fitting: list[tuple[bytes, ...]] = []
        walked: dict[int, bytes] = {}
        missed: list[int] = []
        position, renamed = start, 0
        try:
            while position < len(data) and len(fitting) + len(walked) < _WINDOW:
                found = match(data, position)
                if found is not None:
                    fitting.append(found.groups(b""))
                    position = found.end()
                else:
                    missed.append(position)
                    line, gave_way, position = self._walk(data, position)
                    walked[len(fitting) + len(walked)] = line
                    renamed += gave_way
        except EncodingError:
            # A string may hold what looks like the rest of a document, and then all that follows is out of step.
            return None
        lines = shape.lines(fitting) if fitting else []
        if lines is None:
            return None
        for place, line in walked.items():
            lines.insert(place, line)
        self._consider(data, missed, len(lines))
        return _Window(lines, renamed, position)

    def _by_walking(self, data: bytes, start: int) -> _Window:
        window = _Window([], 0, start)
        starts = []
        while window.end < len(data) and len(window.lines) < _WINDOW:
            starts.append(window.end)
            line, gave_way, window.end = self._walk(data, window.end)
            window.lines.append(line)
            window.renamed += gave_way
        self._consider(data, starts, len(starts))
        return window

    def _walk(self, data: bytes, start: int) -> tuple[bytes, bool, int]:
        members, end = walk(data, start, self._mode, self._tag)
        gave_way = self._tag is not None and data.find(b"_col\0", start, end) > 0 and makes_place(members)
        return _document(members), gave_way, end

    def _consider(self, data: bytes, missed: list[int], documents: int) -> None:
        """Count the documents that had to be walked, and learn from some where too many had to."""
        self._documents += documents
        self._missed += len(missed)
        if self._documents < _WINDOW or not self._learning.acquire(blocking=False):
            return
        try:
            if self._rest:
                self._rest -= 1
            elif missed and self._missed * _MISSED_SHARE > self._documents:
                for start in missed[:: len(missed) // _LESSON + 1]:
                    with suppress(NotWorthItError):
                        self._form.learn(data, start)
                self._shape = self._form.shape()
                # Where every document brings something new, lessons never pay, and cost as much as walking hundreds.
                self._rest, self._next_rest = self._next_rest, self._next_rest * 2
            self._documents = self._missed = 0
        finally:
            self._learning.release()


@lru_cache(256)
def _encoder(collection: str, mode: Mode, *, tagged: bool) -> _Encoder:
    return _Encoder(f'"_col":{quote(collection.encode())}' if tagged else None, mode)
