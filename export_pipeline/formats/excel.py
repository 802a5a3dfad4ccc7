"""Excel: a workbook with one sheet per collection, after a sheet that says which is which.

Numbers and dates (UTC) are real ones where Excel can hold them, else text that says the same; it computes with 15
digits. Rows go to temporary files as they come, so memory stays flat, and the workbook is put together at the end.
"""

import math
import re
import shutil
import tempfile
import weakref
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar
from xml.sax.saxutils import escape

from export_pipeline.errors import BadInputError, ExportPipelineError, IncompleteError
from export_pipeline.formats.columns import (
    Cell,
    ColumnSurvey,
    Table,
    date_text,
    decimal_text,
    double_text,
    id_text,
    read_bool,
    read_double,
    read_int,
    read_text,
)
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.formats.zip_stream import members, whole
from export_pipeline.mongo.bson_stream import Piece

if TYPE_CHECKING:
    from xlsxwriter import Workbook
    from xlsxwriter.worksheet import Worksheet

MOST_ROWS = 1_048_576
"""Of a sheet, the header included."""
LONGEST_TEXT = 32_767
"""Of a cell, in UTF-16 units."""
LONGEST_SHEET_NAME = 31
"""The same."""

CONTENTS = "Contents"
_CONTENTS_HEADER = ("Sheet", "Collection", "Documents")
_RESERVED = {CONTENTS.lower(), "history"}
_FORBIDDEN_IN_SHEET_NAME = re.compile(r"[\[\]:*?/\\]")
_DATE_FORMAT = "yyyy-mm-dd hh:mm:ss.000"
_CREATED = datetime(1980, 1, 1, tzinfo=UTC)  # the true time would make two exports of the same data differ

_CHUNK = 1 << 20
_LARGEST_CONTENTS = 16 << 20

_MILLISECONDS_OF_DAY = 86_400_000
_DAY_1970 = 25_569
_FIRST_DATE, _END_OF_DATES = -2_203_891_200_000, 253_402_300_800_000
"""1900-03-01, as Excel believes in a 29 February before it, and the year 10000; in milliseconds since 1970."""
_EXACT_INTEGERS = 1 << 53
_SMALLEST, _LARGEST = 2.2250738585072014e-308, 9.99e307
"""Of the numbers that Excel knows, but for zero."""


class ExcelLimitError(ExportPipelineError):
    """The data do not fit into an Excel workbook; the message says why, and that CSV takes them."""

    code: ClassVar[str] = "excel_limit"


class _Date(float):
    """Days since the end of 1899."""


Value = str | float | bool
"""Of a cell: text, a number (or a date), a truth value."""


def _number(value: float, text: str) -> Value:
    return value if value == 0 or _SMALLEST <= abs(value) <= _LARGEST else text


def _double(data: bytes, begin: int, end: int) -> Value:
    value = read_double(data, begin, end)
    return _number(value, double_text(data, begin, end)) if math.isfinite(value) else double_text(data, begin, end)


def _integer(data: bytes, begin: int, end: int) -> Value:
    value = read_int(data, begin, end)
    return value if abs(value) <= _EXACT_INTEGERS else str(value)


def _decimal(data: bytes, begin: int, end: int) -> Value:
    """Return a number where Excel's 15 digits are enough."""
    text = decimal_text(data, begin, end)
    value = float(text)
    is_exact = math.isfinite(value) and Decimal(f"{value:.15g}") == Decimal(text)
    return _number(value, text) if is_exact else text


def _date(data: bytes, begin: int, end: int) -> Value:
    milliseconds = read_int(data, begin, end)
    if not _FIRST_DATE <= milliseconds < _END_OF_DATES:
        return date_text(data, begin, end)
    return _Date(_DAY_1970 + milliseconds / _MILLISECONDS_OF_DAY)


_CELLS: dict[int, Cell[Value]] = {
    0x01: _double,
    0x02: read_text,
    0x07: id_text,
    0x08: read_bool,
    0x09: _date,
    0x0A: lambda _data, _begin, _end: "",
    0x10: _integer,
    0x12: _integer,
    0x13: _decimal,
}


class _ExcelSurvey(ColumnSurvey):
    """Finds the columns, and collections that are too long before anything is written."""

    def see(self, collection: str, piece: Piece) -> None:
        super().see(collection, piece)
        _check_rows(collection, self.documents(collection))


class _ExcelWriter:
    def __init__(self, sink: Sink, survey: ColumnSurvey) -> None:
        self._sink = sink
        self._survey = survey
        folder = tempfile.mkdtemp(prefix="export-excel-")  # for its owner alone
        self._file = Path(folder) / "workbook.xlsx"
        self._book = _workbook(self._file)
        self._clean_up = weakref.finalize(self, _give_up, self._book, folder)
        self._date_format = self._book.add_format({"num_format": _DATE_FORMAT})
        self._bold = self._book.add_format({"bold": True})
        self._contents = self._book.add_worksheet(CONTENTS)
        self._written: list[tuple[str, str, int]] = []
        self._names = set(_RESERVED)
        self._table: Table | None = None
        self._sheet: Worksheet | None = None
        self._row = 0
        self._renamed = 0

    def write(self, collection: str, piece: Piece) -> None:
        if self._table is None or self._table.collection != collection:
            self.end_collection()
            self._table = self._survey.table(collection)
            self._sheet = self._book.add_worksheet(self._sheet_name(collection))
            self._write_header(self._sheet, self._table.header)
            self._row = 1
        assert self._sheet is not None
        _check_rows(collection, self._row - 1 + len(piece))
        for row in self._table.rows(piece, _CELLS, str):
            for column, value in enumerate(row):
                if value is not None and value != "":
                    self._write_cell(self._sheet, column, value)
            self._row += 1
        self._renamed += self._table.renamed(piece)

    def _write_header(self, sheet: "Worksheet", names: list[str] | tuple[str, ...]) -> None:
        sheet.freeze_panes(1, 0)
        for column, name in enumerate(names):
            sheet.write_string(0, column, _plain(name), self._bold)

    def _write_cell(self, sheet: "Worksheet", column: int, value: Value) -> None:
        if isinstance(value, str):
            if sheet.write_string(self._row, column, _plain(value)):
                assert self._table is not None
                raise ExcelLimitError(
                    f"{self._table.collection}: a text in column {self._table.header[column]!r} is longer than the "
                    f"{LONGEST_TEXT:,} characters that a cell of Excel takes; choose the format csv"
                )
        elif isinstance(value, bool):
            sheet.write_boolean(self._row, column, value)
        else:
            sheet.write_number(self._row, column, value, self._date_format if isinstance(value, _Date) else None)

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
        """End the sheet. Where its bytes will lie in the file only the end tells."""
        if self._table is not None and self._sheet is not None:
            self._written.append((self._sheet.get_name(), self._table.collection, self._row - 1))
        self._table = self._sheet = None
        renamed, self._renamed = self._renamed, 0
        return renamed

    def close(self) -> None:
        self.end_collection()
        self._write_header(self._contents, _CONTENTS_HEADER)
        for row, (sheet, collection, documents) in enumerate(self._written, 1):
            self._contents.write_string(row, 0, _plain(sheet))
            self._contents.write_string(row, 1, _plain(collection))
            self._contents.write_number(row, 2, documents)
        self._book.close()
        with self._file.open("rb") as finished:
            while chunk := finished.read(_CHUNK):
                self._sink.write(chunk)
        self._clean_up()


class Excel:
    """One workbook for all collections."""

    name = "excel"
    extension = "xlsx"
    media_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

    def survey(self, options: WriteOptions) -> ColumnSurvey:
        """See ``Format.survey``. Raises BadInputError where the library for Excel is not installed."""
        _check_installed()
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
        """See ``Format.count``. It needs no library: a package can be verified wherever it went."""
        rows: dict[str, int] = {}
        contents: list[tuple[str, int]] | None = None
        for name, content in members(file):
            if name == _sheet_file(0):
                contents = _read_contents(whole(content, _LARGEST_CONTENTS))
            elif name.startswith("xl/worksheets/"):
                rows[name] = _count_rows(content)
        if contents is None:
            raise IncompleteError(f"the workbook has no sheet {CONTENTS!r}")
        if rows != {_sheet_file(number): documents + 1 for number, (_, documents) in enumerate(contents, 1)}:
            raise IncompleteError(f"the workbook's sheets are not those that its sheet {CONTENTS!r} lists")
        if len({collection for collection, _ in contents}) != len(contents):
            raise IncompleteError(f"the workbook's sheet {CONTENTS!r} lists a collection twice")
        return Counter(dict(contents))


def _check_installed() -> None:
    try:
        import xlsxwriter  # noqa: F401
    except ModuleNotFoundError:
        raise BadInputError(
            "format: excel needs the library XlsxWriter; pip install 'export-pipeline[excel]' brings it"
        ) from None


def _check_rows(collection: str, documents: int) -> None:
    if documents >= MOST_ROWS:
        raise ExcelLimitError(
            f"{collection}: it has more documents than the {MOST_ROWS - 1:,} rows that a sheet of Excel takes; "
            "choose the format csv"
        )


def _workbook(file: Path) -> "Workbook":
    import xlsxwriter

    book = xlsxwriter.Workbook(str(file), {"constant_memory": True, "tmpdir": str(file.parent)})
    book.use_zip64()
    book.set_properties({"created": _CREATED})
    return book


def _give_up(book: "Workbook", folder: str) -> None:
    """Leave nothing behind, whether the workbook was finished or not."""
    for sheet in book.worksheets():
        if sheet.row_data_fh is not None:
            sheet.row_data_fh.close()
    shutil.rmtree(folder, ignore_errors=True)


def _plain(text: str) -> str:
    """Return text such that XlsxWriter writes it as text: what looks like its own markup it would write as markup."""
    if text.startswith("<r>") and text.endswith("</r>"):
        return f'<r><t xml:space="preserve">{escape(text)}</t></r>'
    return text


def _shortened(text: str, units: int) -> str:
    return text.encode("utf-16-le")[: 2 * units].decode("utf-16-le", "ignore").rstrip("'")


# Reading back


def _sheet_file(number: int) -> str:
    return f"xl/worksheets/sheet{number + 1}.xml"


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
        return [(_unescaped(collection), int(documents)) for _, collection, documents in listed]
    except (ET.ParseError, ValueError):
        raise IncompleteError(f"the workbook's sheet {CONTENTS!r} is not one that was written here") from None


def _unescaped(text: str) -> str:
    """Take back what Excel's files do to text that looks like ``_x0041_``, an escaped character."""
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), text)
