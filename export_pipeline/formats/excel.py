"""Excel: a workbook with one sheet per collection, and one that says which is which.

It is written as the documents come, the parts that name the sheets last. Numbers and dates (UTC) are real ones where
Excel can hold them, else text that says the same; it computes with 15 digits.
"""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import BinaryIO, ClassVar

from export_pipeline.errors import ExportPipelineError, IncompleteError
from export_pipeline.formats import excel_parts as parts_of
from export_pipeline.formats.column_parts import Part
from export_pipeline.formats.columns import ColumnSurvey, Table
from export_pipeline.formats.excel_cells import (
    LONGEST_TEXT,
    NUMBER,
    SPACED,
    TEXT,
    Cells,
    LongTextError,
    cell,
    cells,
    escaped,
    numbered,
    rows,
    unescaped,
)
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.formats.zip_stream import LARGEST_SMALL, ZipStream, members, whole
from export_pipeline.mongo.bson_stream import Piece

MOST_ROWS = 1_048_576
"""Of a sheet, the header included."""
LONGEST_SHEET_NAME = 31
"""In UTF-16 units."""
MOST_BYTES = LARGEST_SMALL - (64 << 20)
"""Of a sheet, and of the workbook, whose end must find its place too: Excel takes larger files for damaged."""

CONTENTS = "Contents"
_CONTENTS_HEADER = ("Sheet", "Collection", "Documents")
_RESERVED = {CONTENTS.lower(), "history"}
_FORBIDDEN_IN_SHEET_NAME = re.compile(r"[\[\]:*?/\\\0-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")

_LARGEST_CONTENTS = 16 << 20


class ExcelLimitError(ExportPipelineError):
    """The data do not fit into an Excel workbook; the message says why, and that CSV takes them."""

    code: ClassVar[str] = "excel_limit"


class _ExcelSurvey(ColumnSurvey):
    """Finds the columns, and collections that are too long before anything is written."""

    def see(self, collection: str, piece: Piece) -> None:
        super().see(collection, piece)
        _check_rows(collection, self.documents(collection))


class _Sheet:
    """The sheet of one collection while it is written."""

    def __init__(self, name: str, table: Table) -> None:
        self.name = name
        self.table = table
        self.documents = 0
        self.bytes = 0
        self._tag = cell(0, SPACED, escaped(table.collection.encode()))
        self._header = table.header

    def begin(self, documents: int) -> bytes:
        """Return what comes before the documents."""
        return parts_of.sheet_begin(self._header, documents + 1, self.table.date_columns)

    def rows(self, count: int, parts: Iterable[Part]) -> list[bytes]:
        """Return documents as rows without their numbers."""
        columns: list[list[Cells]] = [[] for _ in self._header[1:]]
        for part in parts:
            try:
                columns[part.column - 1] += cells(part, f"{self.table.collection}\0{part.column}")
            except LongTextError:
                raise ExcelLimitError(
                    f"{self.table.collection}: a text in column {self._header[part.column]!r} is longer than the "
                    f"{LONGEST_TEXT:,} characters that a cell of Excel takes; choose the format csv"
                ) from None
        return rows(count, self._tag, columns)

    def numbered(self, made: list[bytes]) -> bytes:
        """Return rows with their numbers, which follow those before."""
        written = b"".join(numbered(made, self.documents + 2))
        self.documents += len(made)
        self.bytes += len(written)
        return written


class _ExcelWriter:
    def __init__(self, sink: Sink, survey: ColumnSurvey) -> None:
        self._survey = survey
        self._zip = ZipStream(sink, compress=True, large=False)
        self._write_part(parts_of.RELATIONS, parts_of.relations())
        self._write_part(parts_of.STYLES, parts_of.styles())
        self._written: list[tuple[str, str, int]] = []
        self._names = set(_RESERVED)
        self._sheet: _Sheet | None = None
        self._renamed = 0

    def write(self, collection: str, piece: Piece) -> None:
        if self._sheet is None or self._sheet.table.collection != collection:
            self._end_sheet()
            self._sheet = _Sheet(self._sheet_name(collection), self._survey.table(collection))
            self._zip.begin(parts_of.sheet_file(len(self._written) + 1))
            self._zip.write(self._sheet.begin(self._survey.documents(collection)))
        _check_rows(collection, self._sheet.documents + len(piece))
        for made in self._sheet.table.lines(piece, self._sheet.rows):
            written = self._sheet.numbered(made)
            if max(self._sheet.bytes, self._zip.size) > MOST_BYTES:
                raise ExcelLimitError(f"{collection}: it is more than a file for Excel can hold; choose the format csv")
            self._zip.write(written)
        self._renamed += self._sheet.table.renamed(piece)

    def _sheet_name(self, collection: str) -> str:
        """Return a name like the collection's that Excel takes and no other sheet has."""
        clean = _FORBIDDEN_IN_SHEET_NAME.sub("_", collection).strip("'") or "_"
        name, number = _shortened(clean, LONGEST_SHEET_NAME), 1
        while name.lower() in self._names:
            number += 1
            ending = f"~{number}"
            name = _shortened(clean, LONGEST_SHEET_NAME - len(ending)) + ending
        self._names.add(name.lower())
        return name

    def end_collection(self) -> int:
        self._end_sheet()
        renamed, self._renamed = self._renamed, 0
        return renamed

    def _end_sheet(self) -> None:
        if self._sheet is not None:
            self._zip.write(parts_of.SHEET_END)
            self._zip.end()
            self._written.append((self._sheet.name, self._sheet.table.collection, self._sheet.documents))
        self._sheet = None

    def close(self) -> None:
        self._end_sheet()
        self._write_part(parts_of.sheet_file(0), _contents(self._written))
        names = [CONTENTS, *(name for name, _, _ in self._written)]
        self._write_part(parts_of.BOOK, parts_of.book(names))
        self._write_part(parts_of.BOOK_RELATIONS, parts_of.book_relations(len(names)))
        self._write_part(parts_of.CONTENT_TYPES, parts_of.content_types(len(names)))
        self._zip.close()

    def _write_part(self, name: str, content: bytes) -> None:
        self._zip.begin(name)
        self._zip.write(content)
        self._zip.end()


def _contents(written: list[tuple[str, str, int]]) -> bytes:
    """Return the sheet that lists the others."""
    begin = parts_of.sheet_begin(_CONTENTS_HEADER, len(written) + 1, selected=True)
    made = [
        b'<row r="\0">%b%b%b</row>'
        % (
            cell(0, TEXT, escaped(sheet.encode())),
            cell(1, TEXT, escaped(collection.encode())),
            cell(2, NUMBER, b"%d" % documents),
        )
        for sheet, collection, documents in written
    ]
    return begin + b"".join(numbered(made, 2)) + parts_of.SHEET_END


class Excel:
    """One workbook for all collections."""

    name = "excel"
    extension = "xlsx"
    media_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    takes = frozenset({"dotted"})
    compresses_inside = True

    def survey(self, options: WriteOptions, about: About | None = None) -> ColumnSurvey:  # noqa: ARG002
        """See ``Format.survey``."""
        return _ExcelSurvey(dotted=options.dotted)

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,  # noqa: ARG002
        survey: Survey | None = None,
        about: About | None = None,  # noqa: ARG002
    ) -> _ExcelWriter:
        """See ``Format.writer``."""
        assert isinstance(survey, ColumnSurvey)
        return _ExcelWriter(sink, survey)

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``."""
        rows: dict[str, int] = {}
        contents: list[tuple[str, int]] | None = None
        for name, content in members(file):
            if name == parts_of.sheet_file(0):
                contents = _read_contents(whole(content, _LARGEST_CONTENTS))
            elif name.startswith(parts_of.SHEETS):
                rows[name] = _count_rows(content)
        if contents is None:
            raise IncompleteError(f"the workbook has no sheet {CONTENTS!r}")
        if rows != {parts_of.sheet_file(number): documents + 1 for number, (_, documents) in enumerate(contents, 1)}:
            raise IncompleteError(f"the workbook's sheets are not those that its sheet {CONTENTS!r} lists")
        if len({collection for collection, _ in contents}) != len(contents):
            raise IncompleteError(f"the workbook's sheet {CONTENTS!r} lists a collection twice")
        return Counter(dict(contents))


def _check_rows(collection: str, documents: int) -> None:
    if documents >= MOST_ROWS:
        raise ExcelLimitError(
            f"{collection}: it has more documents than the {MOST_ROWS - 1:,} rows that a sheet of Excel takes; "
            "choose the format csv"
        )


def _shortened(text: str, units: int) -> str:
    return text.encode("utf-16-le")[: 2 * units].decode("utf-16-le", "ignore").rstrip("'")


# Reading back


def _count_rows(chunks: Iterator[bytes]) -> int:
    """Return how many rows a sheet has: within text, ``<`` is escaped."""
    mark, ending = b"<row ", b"</worksheet>"
    rows, last = 0, b""
    for chunk in chunks:
        rows += (last[1 - len(mark) :] + chunk).count(mark)
        last = (last + chunk)[-len(ending) :]
    if last != ending:
        raise IncompleteError("a sheet of the workbook does not end where its file ends")
    return rows


def _read_contents(xml: bytes) -> list[tuple[str, int]]:
    """Return the collections in the order of their sheets, and their counts."""
    main = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    try:
        rows = ET.fromstring(xml).iter(f"{main}row")  # noqa: S314 - expat itself stops entities that grow
        cells = [["".join(cell.itertext()) for cell in row] for row in rows]
        header, *listed = cells
        if tuple(header) != _CONTENTS_HEADER:
            raise ValueError
        return [(unescaped(collection), int(documents)) for _, collection, documents in listed]
    except (ET.ParseError, ValueError):
        raise IncompleteError(f"the workbook's sheet {CONTENTS!r} is not one that was written here") from None
