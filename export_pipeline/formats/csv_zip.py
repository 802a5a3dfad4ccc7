"""CSV: a zip with one file per collection as RFC 4180 has it, in UTF-8, for spreadsheets and for loading into tables.

Text, numbers, booleans, ids and dates (UTC) stand as they are; all else is relaxed Extended JSON. A field that is
null, one that is empty text, and one that is missing look alike: CSV cannot tell them apart.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.columns import (
    TAG,
    Cell,
    ColumnSurvey,
    Table,
    date_text,
    decimal_text,
    double_text,
    id_text,
    read_bool,
    read_int,
    read_text,
)
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.formats.zip_stream import ZipStream, collection_of, member_stem, members
from export_pipeline.mongo.bson_stream import Piece

_EXTENSION = ".csv"

_WINDOW_CELLS = 1 << 16
"""Cells that are in memory at once: rows of thousands of columns are mostly empty ones."""

_FORMULA = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""How text begins that spreadsheets may run (owasp.org, CSV injection), the full-width forms included."""


def _harmless(text: str) -> str:
    """Return text such that spreadsheets show it; the apostrophe tells them to."""
    return f"'{text}" if text[:1] in _FORMULA else text


def _as_is(text: str) -> str:
    return text


_CELLS: dict[int, Cell[str]] = {
    0x01: double_text,
    0x02: read_text,
    0x07: id_text,
    0x08: lambda data, begin, end: "true" if read_bool(data, begin, end) else "false",
    0x09: date_text,
    0x0A: lambda _data, _begin, _end: "",
    0x10: lambda data, begin, end: str(read_int(data, begin, end)),
    0x12: lambda data, begin, end: str(read_int(data, begin, end)),
    0x13: decimal_text,
}
_HARMLESS_CELLS = _CELLS | {0x02: lambda data, begin, end: _harmless(read_text(data, begin, end))}


class _CsvWriter:
    def __init__(self, sink: Sink, options: WriteOptions, survey: ColumnSurvey) -> None:
        self._zip = ZipStream(sink, compress=True)
        self._survey = survey
        self._text = _as_is if options.formulas else _harmless
        self._cells = _CELLS if options.formulas else _HARMLESS_CELLS
        self._table: Table | None = None
        self._renamed = 0

    def write(self, collection: str, piece: Piece) -> None:
        if self._table is None or self._table.collection != collection:
            self._table = self._survey.table(collection)
            self._zip.begin(member_stem(collection) + _EXTENSION)
            self._write_rows([[self._text(name) for name in self._table.header]])
        rows = self._table.rows(piece, self._cells, self._text)
        at_once = _WINDOW_CELLS // len(self._table.header) + 1
        while window := list(islice(rows, at_once)):
            self._write_rows(window)
        self._renamed += self._table.renamed(piece)

    def _write_rows(self, rows: Iterable[list[str] | list[str | None]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerows(rows)
        self._zip.write(text.getvalue().encode())

    def end_collection(self) -> int:
        self._zip.end()
        self._table = None
        renamed, self._renamed = self._renamed, 0
        return renamed

    def close(self) -> None:
        self._zip.close()


class CsvZip:
    """One CSV file for each collection that has documents."""

    name = "csv"
    extension = "csv.zip"
    media_type = "application/zip"

    def survey(self, options: WriteOptions) -> ColumnSurvey:
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
        return Counter({collection_of(name, "", _EXTENSION): _count_rows(rows) for name, rows in members(file)})


def _count_rows(chunks: Iterator[bytes]) -> int:
    """Return how many rows follow the header: lines end where they do so outside quotes."""
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
