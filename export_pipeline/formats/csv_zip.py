"""CSV: a zip with one file per collection as RFC 4180 has it, in UTF-8, for spreadsheets and for loading into tables.

Text, numbers, booleans, ids and dates (UTC) stand as they are; all else is relaxed Extended JSON. A field that is
null, one that is empty text, and one that is missing look alike: CSV cannot tell them apart.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.column_parts import Part
from export_pipeline.formats.columns import TAG, ColumnSurvey, Table
from export_pipeline.formats.csv_cells import cells, lines, text_cells
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.formats.zip_stream import ZipStream, collection_of, member_stem, members
from export_pipeline.mongo.bson_stream import Piece

_EXTENSION = ".csv"

_MOST_FROM_A_BYTE = 32
"""Bytes of CSV that come of one of BSON: of three for an item of an array, ``{""$undefined"":true},``."""


class _CsvWriter:
    def __init__(self, sink: Sink, options: WriteOptions, survey: ColumnSurvey) -> None:
        self._zip = ZipStream(sink, compress=True)
        self._survey = survey
        self._formulas = options.formulas
        self._table: Table | None = None
        self._renamed = 0

    def write(self, collection: str, piece: Piece) -> None:
        if self._table is None or self._table.collection != collection:
            self._table = self._survey.table(collection)
            self._zip.begin(member_stem(collection) + _EXTENSION)
            self._write_lines([header_line(self._table, formulas=self._formulas)])
        rows = CsvRows(self._table, formulas=self._formulas)
        for written in self._table.lines(piece, rows.lines):
            self._write_lines(written)
        self._renamed += self._table.renamed(piece)

    def _write_lines(self, written: list[bytes]) -> None:
        written.append(b"")
        self._zip.write(b"\r\n".join(written))

    def end_collection(self) -> int:
        self._zip.end()
        self._table = None
        renamed, self._renamed = self._renamed, 0
        return renamed

    def to_come(self, collection: str, size: int, documents: int) -> int:
        """See ``SplittingWriter.to_come``."""
        table = self._survey.table(collection)
        header = header_line(table, formulas=self._formulas)
        line = 2 * len(collection.encode()) + len(table.header) + 4
        new = len(header) + 2 * len(member_stem(collection)) + 200
        return self._zip.to_come(new + documents * line + size * _MOST_FROM_A_BYTE)

    def close(self) -> None:
        self._zip.close()


def header_line(table: Table, *, formulas: bool) -> bytes:
    """Return the first line, without its end."""
    return b",".join(text_cells([name.encode() for name in table.header], formulas=formulas))


class CsvRows:
    """Makes lines of a collection's documents."""

    def __init__(self, table: Table, *, formulas: bool) -> None:
        self._collection = table.collection
        self._width = len(table.header)
        self._formulas = formulas
        (self._tag,) = text_cells([table.collection.encode()], formulas=formulas)

    def lines(self, count: int, parts: Iterable[Part]) -> list[bytes]:
        """See ``columns.Render``."""
        columns: list[list[bytes] | None] = [None] * (self._width - 1)
        for part in parts:
            made = cells(part, f"{self._collection}\0{part.column}", formulas=self._formulas)
            if part.places is None:
                columns[part.column - 1] = list(made)
                continue
            column = columns[part.column - 1]
            if column is None:
                column = columns[part.column - 1] = [b""] * count
            for place, cell in zip(part.places, made, strict=True):
                column[place] = cell
        return lines(count, self._tag, columns)


class CsvZip:
    """One CSV file for each collection that has documents."""

    name = "csv"
    extension = "csv.zip"
    media_type = "application/zip"
    takes = frozenset({"dotted", "formulas", "split_bytes"})
    compresses_inside = True

    def survey(self, options: WriteOptions, about: About | None = None) -> ColumnSurvey:  # noqa: ARG002
        """See ``Format.survey``."""
        return ColumnSurvey(dotted=options.dotted)

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,
        survey: Survey | None = None,
        about: About | None = None,  # noqa: ARG002
    ) -> _CsvWriter:
        """See ``Format.writer``."""
        assert isinstance(survey, ColumnSurvey)
        return _CsvWriter(sink, options, survey)

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``."""
        return Counter({collection_of(name, "", _EXTENSION): count_rows(rows) for name, rows in members(file)})


def count_rows(chunks: Iterator[bytes]) -> int:
    """Return how many rows follow the header: lines end where they do so outside quotes. Raises IncompleteError."""
    lines, quoted, begin, rest, last = 0, False, b"", b"", b""
    for chunk in chunks:
        data = rest + chunk
        rest = b"\r" if data.endswith(b"\r") else b""  # its line feed may be in the next chunk
        begin, last = (begin + chunk[: len(TAG)])[: len(TAG)], (last + data[-2:])[-2:]
        parts = data.removesuffix(rest).split(b'"')
        lines += sum(part.count(b"\r\n") for part in parts[quoted::2])
        quoted ^= len(parts) % 2 == 0
    if begin != TAG.encode() or quoted or last != b"\r\n":
        raise IncompleteError("a collection's file is not CSV with a header, to its last line")
    return lines - 1
