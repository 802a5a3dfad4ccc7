"""One file of a backup: documents of one collection, untagged, in one of the formats; written, counted and read back.

BSON is a file as mongodump makes it. JSON Lines is canonical Extended JSON. Parquet has
structs and lists, and each whole document beside them. CSV is for other tools: no backup is restored from it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, BinaryIO, Protocol

from export_pipeline.backups.manifest import BackupFormat, BackupOptions
from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.formats import nested_parquet
from export_pipeline.formats.columns import ColumnSurvey
from export_pipeline.formats.csv_zip import CsvRows, count_rows, header_line
from export_pipeline.formats.extended_json import encode_documents
from export_pipeline.formats.extended_json_reader import decode_document
from export_pipeline.formats.nested_parquet import NestedParquet
from export_pipeline.formats.protocol import Sink, Survey, WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.mongo.bson_stream import PIECE_BYTES, Piece, whole_documents
from export_pipeline.packages.layers import Keys, open_layers

_LARGEST_DOCUMENT = 17 << 20
"""In bytes: MongoDB stores 16 MB."""

_MOST_OF_PARQUET = 3
"""Bytes of Parquet that come of one of BSON: a value that does not compress is in its column, and in the document."""

_SHARE_FOR_LAYERS = 200
"""Of so many bytes, encryption and a compression of what does not compress add one at most, and a header."""
_BYTES_FOR_LAYERS = 10_000


class PartWriter(Protocol):
    """Writes one file."""

    def add(self, piece: Piece, limit: int) -> int:
        """Write the first documents of ``piece``: as many as keep the file's content within ``limit`` bytes.

        Returns how many those are; at least one, if they are the file's first.
        """

    def close(self) -> None:
        """Write what ends the file. The sink stays open."""


class PartFormat(Protocol):
    """A format of parts."""

    name: BackupFormat
    extension: str
    whole_collections: bool
    """Whether all files of a collection are written one after another, since they have something in common."""

    def survey(self) -> Survey | None:
        """Return what has to see all documents before the first is written, if anything."""

    def writer(self, sink: Sink, collection: str, survey: Survey | None) -> PartWriter:
        """Begin a file."""

    def count(self, content: BinaryIO) -> int:
        """Read a finished file back, whole, and count its documents. Raises IncompleteError for what is damaged."""

    def pieces(self, content: BinaryIO) -> Iterator[Piece]:
        """Yield a finished file's documents in their order. Raises IncompleteError, or DecodingError, for damage."""


class _BsonWriter:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._size = 0

    def add(self, piece: Piece, limit: int) -> int:
        count = _fitting([*piece.offsets[1:], len(piece.data)], limit - self._size, anyway=not self._size)
        data = piece.cut(0, count).data if count else b""
        self._sink.write(data)
        self._size += len(data)
        return count

    def close(self) -> None:
        pass


class _LineWriter:
    """For formats of one line, or some, for each document."""

    def __init__(self, sink: Sink, ending: bytes, header: bytes, encode: Any) -> None:
        self._sink = sink
        self._ending = ending
        self._encode = encode
        self._header = header
        self._size = len(header)
        sink.write(header)

    def add(self, piece: Piece, limit: int) -> int:
        lines: Sequence[bytes] = self._encode(piece)
        ends = list(accumulate(len(line) + len(self._ending) for line in lines))
        count = _fitting(ends, limit - self._size, anyway=self._size == len(self._header))
        if count:
            self._sink.write(self._ending.join([*lines[:count], b""]))
            self._size += ends[count - 1]
        return count

    def close(self) -> None:
        pass


class _ParquetWriter:
    def __init__(self, sink: Sink, collection: str, survey: Survey | None) -> None:
        self._writer = NestedParquet().writer(sink, WriteOptions(lossless=True), survey)
        self._collection = collection
        self._size = 0

    def add(self, piece: Piece, limit: int) -> int:
        ends = [*piece.offsets[1:], len(piece.data)]
        count = _fitting(ends, limit // _MOST_OF_PARQUET - self._size, anyway=not self._size)
        if count:
            self._writer.write(self._collection, piece.cut(0, count))
            self._size += ends[count - 1]
        return count

    def close(self) -> None:
        self._writer.end_collection()
        self._writer.close()


class BsonPart:
    """The stored bytes."""

    name: BackupFormat = "bson"
    extension = "bson"
    whole_collections = False

    def survey(self) -> None:
        """See ``PartFormat.survey``."""

    def writer(self, sink: Sink, collection: str, survey: Survey | None) -> _BsonWriter:  # noqa: ARG002
        """See ``PartFormat.writer``."""
        return _BsonWriter(sink)

    def count(self, content: BinaryIO) -> int:
        """See ``PartFormat.count``."""
        return sum(map(len, self.pieces(content)))

    def pieces(self, content: BinaryIO) -> Iterator[Piece]:
        """See ``PartFormat.pieces``."""
        rest = b""
        while chunk := content.read(PIECE_BYTES):
            data = rest + chunk
            offsets, end = whole_documents(data)
            if offsets:
                yield Piece(data[:end], offsets)
            rest = data[end:]
            if len(rest) > _LARGEST_DOCUMENT:
                raise IncompleteError("a document is larger than a document can be")
        if rest:
            raise IncompleteError("the file ends in the middle of a document")


class JsonLinesPart:
    """A document per line."""

    name: BackupFormat = "jsonl"
    extension = "jsonl"
    whole_collections = False

    def survey(self) -> None:
        """See ``PartFormat.survey``."""

    def writer(self, sink: Sink, collection: str, survey: Survey | None) -> _LineWriter:  # noqa: ARG002
        """See ``PartFormat.writer``."""
        return _LineWriter(sink, b"\n", b"", lambda piece: encode_documents(piece.data, "canonical", collection))

    def count(self, content: BinaryIO) -> int:
        """See ``PartFormat.count``."""
        lines, last = 0, b"\n"
        for chunk in iter(partial(content.read, PIECE_BYTES), b""):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
        if last != b"\n":
            raise IncompleteError("the file ends in the middle of a line")
        return lines

    def pieces(self, content: BinaryIO) -> Iterator[Piece]:
        """See ``PartFormat.pieces``."""
        return _gathered(decode_document(line) for line in content)


class ParquetPart:
    """A table. Each file has the columns that its own range of documents needs."""

    name: BackupFormat = "parquet"
    extension = "parquet"
    whole_collections = False

    def survey(self) -> Survey:
        """See ``PartFormat.survey``."""
        return NestedParquet().survey(WriteOptions())

    def writer(self, sink: Sink, collection: str, survey: Survey | None) -> _ParquetWriter:
        """See ``PartFormat.writer``."""
        return _ParquetWriter(sink, collection, survey)

    def count(self, content: BinaryIO) -> int:
        """See ``PartFormat.count``."""
        return NestedParquet().count(content).total()

    def pieces(self, content: BinaryIO) -> Iterator[Piece]:
        """See ``PartFormat.pieces``."""
        return _gathered(map(decode_document, nested_parquet.documents(content)))


class CsvPart:
    """A table as RFC 4180 has it, the same columns in all of a collection's files; formulas are made harmless."""

    name: BackupFormat = "csv"
    extension = "csv"
    whole_collections = True

    def survey(self) -> ColumnSurvey:
        """See ``PartFormat.survey``."""
        return ColumnSurvey(dotted=False)

    def writer(self, sink: Sink, collection: str, survey: Survey | None) -> _LineWriter:
        """See ``PartFormat.writer``."""
        assert isinstance(survey, ColumnSurvey)
        table = survey.table(collection)
        rows = CsvRows(table, formulas=False)
        header = header_line(table, formulas=False) + b"\r\n"
        return _LineWriter(
            sink, b"\r\n", header, lambda piece: [line for lines in table.lines(piece, rows.lines) for line in lines]
        )

    def count(self, content: BinaryIO) -> int:
        """See ``PartFormat.count``."""
        return count_rows(iter(partial(content.read, PIECE_BYTES), b""))

    def pieces(self, content: BinaryIO) -> Iterator[Piece]:  # noqa: ARG002
        """Raise BadInputError: CSV does not keep the types."""
        raise BadInputError("CSV does not hold documents as they were stored; restore a backup of another format")


_FORMATS: dict[BackupFormat, PartFormat] = {
    "bson": BsonPart(),
    "jsonl": JsonLinesPart(),
    "parquet": ParquetPart(),
    "csv": CsvPart(),
}
_EXTENSIONS = {"none": "", "gzip": ".gz", "zstd": ".zst"}


def part_format(name: BackupFormat) -> PartFormat:
    """Return a format by its name."""
    return _FORMATS[name]


def part_name(stem: str, cut: int, options: BackupOptions) -> str:
    """Return a file's name; ``cut`` counts the files of one planned part, of which there is one as a rule.

    >>> part_name("part-00003", 0, BackupOptions()), part_name("part-00003", 1, BackupOptions(compression="zstd"))
    ('part-00003.bson', 'part-00003-1.bson.zst')
    """
    age = ".age" if options.recipients else ""
    ending = f".{_FORMATS[options.format].extension}{_EXTENSIONS[options.compression]}{age}"
    return f"{stem}{f'-{cut}' if cut else ''}{ending}"


def content_limit(options: BackupOptions) -> int:
    """Return how many bytes of content a file may have, such that what is stored is within the part's size."""
    if options.compression == "none" and not options.recipients:
        return options.part_bytes
    return options.part_bytes - options.part_bytes // _SHARE_FOR_LAYERS - _BYTES_FOR_LAYERS


def range_bytes(options: BackupOptions) -> int:
    """Return how many bytes of BSON a range may have, such that it fills about one file."""
    growth = {"bson": 1.1, "jsonl": 2.2, "parquet": float(_MOST_OF_PARQUET), "csv": 1.0}
    return int(content_limit(options) / growth[options.format])


def open_content(file: BinaryIO, options: BackupOptions, keys: Keys) -> BinaryIO:
    """Return a file's content, decrypted and unpacked. Raises as ``layers.open_layers`` does."""
    layers = WriteOptions(compression=options.compression, recipients=options.recipients)
    return open_layers(file, FORMATS["jsonl"], layers, keys)  # a format that is compressed as a whole, as parts are


def _fitting(ends: Sequence[int], room: int, *, anyway: bool) -> int:
    """Return how many documents fit, given where each ends; one that does not may have to, ``anyway``."""
    count = len(ends) if ends[-1] <= room else bisect_right(ends, room)
    return max(count, 1) if anyway else count


def _gathered(documents: Iterable[bytes]) -> Iterator[Piece]:
    data, offsets = bytearray(), list[int]()
    for document in documents:
        offsets.append(len(data))
        data += document
        if len(data) >= PIECE_BYTES:
            yield Piece(bytes(data), offsets)
            data, offsets = bytearray(), []
    if offsets:
        yield Piece(bytes(data), offsets)
