"""The parts of a workbook other than what is in its rows (ECMA-376, part 1: 12.3 and 18; part 2 for the package)."""

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import quoteattr

from export_pipeline.formats.excel_cells import HEADER, cell, escaped, letters, numbered

RELATIONS, STYLES, BOOK = "_rels/.rels", "xl/styles.xml", "xl/workbook.xml"
BOOK_RELATIONS, CONTENT_TYPES = "xl/_rels/workbook.xml.rels", "[Content_Types].xml"
SHEETS = "xl/worksheets/"

DATE_FORMAT = "yyyy-mm-dd hh:mm:ss.000"

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml."

_DATE_WIDTH, _LEAST_WIDTH, _MOST_WIDTH = 24, 10, 40
"""Of columns, in characters; a date that does not fit would be shown as ########."""

SHEET_END = b"</sheetData></worksheet>"


def sheet_file(number: int) -> str:
    """Return the part in which a sheet is."""
    return f"{SHEETS}sheet{number + 1}.xml"


def relations() -> bytes:
    """Return what says where the workbook is."""
    return _relations([("officeDocument", BOOK)])


def book_relations(sheets: int) -> bytes:
    """Return what says where the workbook's sheets are, and its styles."""
    files = [("worksheet", sheet_file(number).removeprefix("xl/")) for number in range(sheets)]
    return _relations([*files, ("styles", STYLES.removeprefix("xl/"))])


def _relations(targets: Iterable[tuple[str, str]]) -> bytes:
    listed = "".join(
        f'<Relationship Id="rId{number}" Type="{_RELATION}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, 1)
    )
    return f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">{listed}</Relationships>'.encode()


def content_types(sheets: int) -> bytes:
    """Return what says which part is what."""
    parts = [(BOOK, "sheet.main"), (STYLES, "styles"), *((sheet_file(n), "worksheet") for n in range(sheets))]
    listed = "".join(f'<Override PartName="/{file}" ContentType="{_TYPE}{kind}+xml"/>' for file, kind in parts)
    return (
        f'{_XML}<Types xmlns="{_PACKAGE}/content-types">'
        f'<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{listed}</Types>'
    ).encode()


def book(names: Iterable[str]) -> bytes:
    """Return the workbook: its sheets in their order."""
    listed = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{number}" r:id="rId{number}"/>' for number, name in enumerate(names, 1)
    )
    return (
        f'{_XML}<workbook xmlns="{_MAIN}" xmlns:r="{_RELATION}">'
        f"<bookViews><workbookView/></bookViews><sheets>{listed}</sheets></workbook>"
    ).encode()


def styles() -> bytes:
    """Return the styles of cells: 0 is the usual one, 1 is for headers, 2 for dates."""
    font = '<sz val="11"/><name val="Calibri"/><family val="2"/>'
    usual = 'numFmtId="0" fontId="0" fillId="0" borderId="0"'
    return (
        f'{_XML}<styleSheet xmlns="{_MAIN}">'
        f'<numFmts count="1"><numFmt numFmtId="164" formatCode="{DATE_FORMAT}"/></numFmts>'
        f'<fonts count="2"><font>{font}</font><font><b/>{font}</font></fonts>'
        '<fills count="2"><fill><patternFill patternType="none"/></fill>'
        '<fill><patternFill patternType="gray125"/></fill></fills>'
        '<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>'
        f'<cellStyleXfs count="1"><xf {usual}/></cellStyleXfs>'
        f'<cellXfs count="3"><xf {usual} xfId="0"/>'
        '<xf numFmtId="0" fontId="1" fillId="0" borderId="0" xfId="0" applyFont="1"/>'
        '<xf numFmtId="164" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/></cellXfs>'
        '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>'
    ).encode()


def sheet_begin(header: Sequence[str], rows: int, dates: Iterable[int] = (), *, selected: bool = False) -> bytes:
    """Return a worksheet up to its second row.

    ``rows`` is how many there will be with the header, which stays in view; ``dates`` are the columns, counted from 0,
    that hold some.
    """
    with_dates = set(dates)
    widths = "".join(
        f'<col min="{number + 1}" max="{number + 1}" width="{_width(name, number in with_dates)}" customWidth="1"/>'
        for number, name in enumerate(header)
    )
    is_selected = ' tabSelected="1"' if selected else ""
    (first,) = numbered([b'<row r="\0">%b</row>' % _header_cells(header)], 1)
    return (
        f'{_XML}<worksheet xmlns="{_MAIN}"><dimension ref="A1:{letters(len(header) - 1).decode()}{rows}"/>'
        f'<sheetViews><sheetView{is_selected} workbookViewId="0">'
        '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/><selection pane="bottomLeft"/>'
        f'</sheetView></sheetViews><sheetFormatPr defaultRowHeight="15"/><cols>{widths}</cols><sheetData>'
    ).encode() + first


def _header_cells(header: Sequence[str]) -> bytes:
    return b"".join(cell(column, HEADER, escaped(name.encode())) for column, name in enumerate(header))


def _width(name: str, is_date: bool) -> int:
    return _DATE_WIDTH if is_date else min(max(len(name) + 3, _LEAST_WIDTH), _MOST_WIDTH)
