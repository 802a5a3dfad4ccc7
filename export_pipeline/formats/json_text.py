"""JSON and JSON Lines: MongoDB Extended JSON v2, one document per line, the tag ``_col`` first."""

from collections import Counter
from typing import BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.extended_json import encode_batch
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.mongo.bson_stream import Piece

_TAG = b'{"_col":"'


class _TextWriter:
    """Documents between an opening and a closing, apart by a separator."""

    def __init__(self, sink: Sink, options: WriteOptions, opening: bytes, separator: bytes, closing: bytes) -> None:
        self._sink = sink
        self._mode = options.json_mode
        self._separator = separator
        self._closing = closing
        self._before_next = b""
        self._renamed = 0
        sink.write(opening)

    def write(self, collection: str, piece: Piece) -> None:
        encoded = encode_batch(piece.data, collection, self._mode, self._separator)
        self._sink.write(self._before_next)
        self._sink.write(encoded.data)
        self._before_next = self._separator
        self._renamed += encoded.renamed

    def end_collection(self) -> int:
        renamed, self._renamed = self._renamed, 0
        return renamed

    def close(self) -> None:
        # The last document's line ends too, unless there is none.
        self._sink.write(b"\n" if self._before_next else b"")
        self._sink.write(self._closing)


class JsonArray:
    """One array: ``[``, a document per line, ``]``; valid while empty."""

    name = "json"
    extension = "json"
    media_type = "application/json"

    def survey(self, options: WriteOptions) -> None:
        """See ``Format.survey``: none is needed."""

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,
        survey: Survey | None = None,  # noqa: ARG002
        about: About | None = None,  # noqa: ARG002
    ) -> _TextWriter:
        """See ``Format.writer``."""
        return _TextWriter(sink, options, b"[\n", b",\n", b"]\n")

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``."""
        found: Counter[str] = Counter()
        if file.readline() != b"[\n":
            raise IncompleteError("the file does not begin with '['")
        expect_more: bool | None = None
        for line in file:
            if line == b"]\n":
                if expect_more or file.read(1):
                    raise IncompleteError("the array does not end where the file ends")
                return found
            if expect_more is False:
                raise IncompleteError("two documents are not apart by a comma")
            expect_more = line.endswith(b",\n")
            found[_collection(line, b"},\n" if expect_more else b"}\n")] += 1
        raise IncompleteError("the file ends before its array does")


class JsonLines:
    """One document per line."""

    name = "jsonl"
    extension = "jsonl"
    media_type = "application/x-ndjson"

    def survey(self, options: WriteOptions) -> None:
        """See ``Format.survey``: none is needed."""

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,
        survey: Survey | None = None,  # noqa: ARG002
        about: About | None = None,  # noqa: ARG002
    ) -> _TextWriter:
        """See ``Format.writer``."""
        return _TextWriter(sink, options, b"", b"\n", b"")

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``."""
        return Counter(_collection(line, b"}\n") for line in file)


def _collection(line: bytes, ending: bytes) -> str:
    """Return the tag of a document's line; a collection's name holds nothing that JSON escapes."""
    quote = line.find(b'"', len(_TAG))
    if not line.startswith(_TAG) or not line.endswith(ending) or quote < 0:
        raise IncompleteError("a line is not one tagged document")
    return line[len(_TAG) : quote].decode(errors="replace")
