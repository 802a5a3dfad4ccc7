"""JSON and JSON Lines: MongoDB Extended JSON v2, one document per line, the tag ``_col`` first."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.encoder_pool import EncoderPool
from export_pipeline.formats.extended_json import Encoded, EncodingError, encode_lines
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.mongo.bson_stream import Piece

_TAG = b'{"_col":"'

_MOST_GROWTH = 12
"""The most bytes of JSON for one of BSON: two bytes of a document can stand for ``"":{"$undefined":true},``."""


@dataclass(frozen=True, slots=True)
class _EncodedPiece(Piece):
    """A piece whose text is known."""

    encoded: Encoded


class _TextWriter:
    """Documents between an opening and a closing, apart by a separator."""

    def __init__(self, sink: Sink, encoder: EncoderPool, opening: bytes, separator: bytes, closing: bytes) -> None:
        self._sink = sink
        self._encoder = encoder
        self._separator = separator
        self._closing = closing
        self._before_next = b""
        self._renamed = 0
        sink.write(opening)

    def write(self, collection: str, piece: Piece) -> None:
        if isinstance(piece, _EncodedPiece):
            self._append(self._encoder.flush())
            self._append([piece.encoded])
        else:
            self._append(self._encoder.encode(piece.data, collection))

    def end_collection(self) -> int:
        self._append(self._encoder.flush())
        renamed, self._renamed = self._renamed, 0
        return renamed

    def close(self) -> None:
        self._append(self._encoder.flush())
        self._encoder.close()
        # The last document's line ends too, unless there is none.
        self._sink.write(b"\n" if self._before_next else b"")
        self._sink.write(self._closing)

    def to_come(self, collection: str, size: int, documents: int) -> int:
        """See ``SplittingWriter.to_come``; with one process nothing is held back."""
        around = len(_TAG) + 6 * len(collection.encode()) + len(self._separator)
        return _MOST_GROWTH * size + documents * around + len(self._closing) + 1

    def _append(self, texts: Iterable[Encoded]) -> None:
        for encoded in texts:
            self._sink.write(self._before_next)
            self._sink.write(encoded.data)
            self._before_next = self._separator
            self._renamed += encoded.renamed


class _Json:
    """What both have in common: all but what stands around the documents."""

    takes = frozenset({"compression", "json_mode", "split_bytes"})
    compresses_inside = False

    _opening: bytes
    _separator: bytes
    _closing: bytes

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes

    def survey(self, options: WriteOptions, about: About | None = None) -> None:
        """See ``Format.survey``: none is needed."""

    def encode_together(self, collection: str, pieces: Sequence[Piece], options: WriteOptions) -> Sequence[Piece]:
        """See ``SharingFormat.encode_together``."""
        try:
            lines = encode_lines(b"".join(piece.data for piece in pieces), collection, options.json_mode)
        except EncodingError:
            lines = None
        if lines is None or len(lines) != sum(map(len, pieces)):
            return pieces  # each file counts its own renamed fields, and tells of its own damage
        ends = accumulate(map(len, pieces))
        return [
            _EncodedPiece(
                piece.data,
                piece.offsets,
                Encoded(self._separator.join(lines[end - len(piece) : end]), len(piece), renamed=0),
            )
            for piece, end in zip(pieces, ends, strict=True)
        ]

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,
        survey: Survey | None = None,  # noqa: ARG002
        about: About | None = None,  # noqa: ARG002
    ) -> _TextWriter:
        """See ``Format.writer``."""
        processes = 1 if options.split_bytes else self._processes  # parts must know what is held back
        encoder = EncoderPool(processes, options.json_mode, self._separator)
        return _TextWriter(sink, encoder, self._opening, self._separator, self._closing)


class JsonArray(_Json):
    """One array: ``[``, a document per line, ``]``; valid while empty."""

    _opening, _separator, _closing = b"[\n", b",\n", b"]\n"
    name = "json"
    extension = "json"
    media_type = "application/json"

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``."""
        found: Counter[str] = Counter()
        if file.readline() != b"[\n":
            raise IncompleteError("the file does not begin with '['")
        expect_more: bool | None = None
        collection, beginning = "", b"]"
        for line in file:
            if expect_more and line.startswith(beginning) and line.endswith(b"},\n"):
                found[collection] += 1  # one more of the same, as most are
                continue
            if line == b"]\n":
                if expect_more or file.read(1):
                    raise IncompleteError("the array does not end where the file ends")
                return found
            if expect_more is False:
                raise IncompleteError("two documents are not apart by a comma")
            expect_more = line.endswith(b",\n")
            collection, beginning = _collection(line, b"},\n" if expect_more else b"}\n")
            found[collection] += 1
        raise IncompleteError("the file ends before its array does")


class JsonLines(_Json):
    """One document per line."""

    _opening, _separator, _closing = b"", b"\n", b""
    name = "jsonl"
    extension = "jsonl"
    media_type = "application/x-ndjson"

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``."""
        return Counter(_collection(line, b"}\n")[0] for line in file)


def _collection(line: bytes, ending: bytes) -> tuple[str, bytes]:
    """Return the tag of a document's line, and the line up to its end; a name holds nothing that JSON escapes."""
    quote = line.find(b'"', len(_TAG))
    if not line.startswith(_TAG) or not line.endswith(ending) or quote < 0:
        raise IncompleteError("a line is not one tagged document")
    return line[len(_TAG) : quote].decode(errors="replace"), line[: quote + 1]
