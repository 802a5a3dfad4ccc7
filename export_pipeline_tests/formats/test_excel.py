"""The workbook as openpyxl and pandas, which know nothing of what wrote it, read it back."""

import gc
import io
import re
import tempfile
import warnings
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import openpyxl
import pytest
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from export_pipeline.errors import IncompleteError
from export_pipeline.formats import columns, excel
from export_pipeline.formats.excel import ExcelLimitError
from export_pipeline.formats.excel_cells import unescaped
from export_pipeline.formats.extended_json import EncodingError
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.test_bson_archive import packed, unpacked
from export_pipeline_tests.formats.test_csv_zip import raw
from export_pipeline_tests.formats.test_formats import piece, written

EXCEL = FORMATS["excel"]
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - dates in a workbook are naive


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files, in which nothing may be left; stored values are nowhere but in the file."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    gc.collect()
    assert list(folder.iterdir()) == []


def workbook(data: bytes) -> Any:
    return openpyxl.load_workbook(io.BytesIO(data))


def sheet(*documents: dict[str, Any], **options: Any) -> Any:
    return workbook(written(EXCEL, {"c": [piece(*documents)]}, WriteOptions(**options)))["c"]


def values(found: Any) -> list[tuple[Any, ...]]:
    return list(found.iter_rows(values_only=True))


def test_each_collection_has_a_sheet_and_the_first_says_which() -> None:
    collections = {"users": [piece({"_id": 1, "a": 2})], "none": [], "events": [piece({"_id": 3}), piece({"b": 4})]}
    data = written(EXCEL, collections)
    book = workbook(data)
    assert book.sheetnames == ["Contents", "users", "events"]
    assert values(book["Contents"]) == [
        ("Sheet", "Collection", "Documents"),
        ("users", "users", 1),
        ("events", "events", 2),
    ]
    assert values(book["users"]) == [("_col", "_id", "a"), ("users", 1, 2)]
    assert values(book["events"]) == [("_col", "_id", "b"), ("events", 3, None), ("events", None, 4)]
    assert EXCEL.count(io.BytesIO(data)) == Counter(users=1, events=2)


def test_the_header_is_frozen_and_bold() -> None:
    book = workbook(written(EXCEL, {"c": [piece({"_id": 1})]}))
    assert [found.freeze_panes for found in book] == ["A2", "A2"]
    assert book["c"]["A1"].font.bold
    assert not book["c"]["A2"].font.bold


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (5, 5),
        (bson.Int64(2**53), 2**53),
        (bson.Int64(2**53 + 1), str(2**53 + 1)),
        (bson.Int64(-(2**63)), str(-(2**63))),
        (-0.25, -0.25),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (1.7e308, "1.7E+308"),
        (5e-324, "5E-324"),
        (True, True),
        (False, False),
        (None, None),
        ("", None),
        (bson.Decimal128("-1.50"), -1.5),
        (bson.Decimal128("1.0000000000000000001"), "1.0000000000000000001"),
        (bson.Decimal128("NaN"), "NaN"),
        (bson.Decimal128("1E+400"), "1E+400"),
        (bson.ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567"),
        ({"a": [1]}, '{"a":[1]}'),
        (bson.Timestamp(1, 2), '{"$timestamp":{"t":1,"i":2}}'),
        (datetime(1900, 2, 28, tzinfo=UTC), "1900-02-28T00:00:00.000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
        (DatetimeMS(253_402_300_800_000), '{"$date":{"$numberLong":"253402300800000"}}'),
    ],
)
def test_values(value: Any, cell: Any) -> None:
    found = sheet({"_id": 1, "v": value})["C2"].value
    assert found == cell
    assert type(found) is type(cell)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.integers(-2_203_891_200_000, 253_402_300_799_999), min_size=1, max_size=30))
@example([-2_203_891_200_000, -1, 0, 1, 253_402_300_799_999, 1_709_251_199_999])
def test_dates_are_real_to_the_millisecond(moments: list[int]) -> None:
    found = sheet(*({"_id": DatetimeMS(moment)} for moment in moments))
    for row, moment in enumerate(moments, 2):
        cell = found.cell(row, 2)
        assert cell.number_format == "yyyy-mm-dd hh:mm:ss.000"
        assert abs(cell.value - EPOCH - timedelta(milliseconds=moment)) < timedelta(milliseconds=1)


HOSTILE = [
    "=1+1",
    "{=1}",
    "+1",
    "@x",
    "https://example.org",
    "mailto:a@b",
    "00123",
    "TRUE",
    "<c>&amp;</c>",
    "]]>",
    " spaced ",
    "\n",
    "tab\there",
    "<r>bold</r>",
    "<r><t>x</t></r>",
    "<r></is></c><x/></r>",
    "😀" * 10,
]
ESCAPED = [
    "_x0041_",
    "_x005F_",
    "a\0b",
    "\x1f",
    "a\rb",
    "\x7f",
    "\ufffe",
    "\uffff",
    "\x0b",
    "<r>\0_x0041_</r>",
    "_x000a_",
]


@pytest.mark.parametrize("text", [*HOSTILE, *ESCAPED])
def test_hostile_text_is_text(text: str) -> None:
    data = written(EXCEL, {"c": [piece({"_id": text, text.replace("\0", "") or "name": text})]})
    found = workbook(data)["c"]["B2"]
    assert found.data_type == "s"
    if text in HOSTILE:
        assert found.value == text
    # openpyxl leaves Excel's escapes where text is in line
    assert unescaped(found.value) == text or unescaped(found.value.replace("_x005F_", "_")) == text
    assert EXCEL.count(io.BytesIO(data)) == Counter(c=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(raw_bson.documents(), min_size=1, max_size=6))
def test_whatever_the_documents_the_workbook_can_be_read(documents: list[bytes]) -> None:
    data = written(EXCEL, {"c": [raw(*documents)]})
    assert workbook(data)["c"].max_row == len(documents) + 1
    assert EXCEL.count(io.BytesIO(data)) == Counter(c=len(documents))


@pytest.mark.parametrize(
    ("text", "kept"), [(" x", True), ("x ", True), ("\tx", True), ("a\nb", True), ("a b", False), ("", False)]
)
def test_spaces_that_xml_readers_may_drop_are_marked(text: str, kept: bool) -> None:
    content = unpacked(written(EXCEL, {"c": [piece({"_id": text})]}))["xl/worksheets/sheet2.xml"]
    assert (f'<t xml:space="preserve">{text}</t>'.encode() in content) == kept


NAMES = [
    "a" * 40,
    "a" * 41,
    "A" * 42,
    "x/y",
    "x:y",
    "'",
    "Contents",
    "history",
    "😀" * 20,
    "_x0041_",
    "<r>x</r>",
    "x y",
]


def test_sheets_have_names_that_excel_takes_and_no_two_the_same() -> None:
    data = written(EXCEL, {name: [piece({"_id": 1})] for name in NAMES})
    book = workbook(data)
    found = book.sheetnames[1:]
    assert found[:5] == ["a" * 31, "a" * 29 + "~2", "A" * 29 + "~3", "x_y", "x_y~2"]
    assert all(len(name.encode("utf-16-le")) <= 62 and not set(name) & set("[]:*?/\\") for name in found)
    assert len({name.lower() for name in book.sheetnames}) == len(NAMES) + 1
    assert [row[0] for row in values(book["Contents"])[1:]][:9] == found[:9]
    assert EXCEL.count(io.BytesIO(data)) == Counter(NAMES)


# Limits


def test_more_documents_than_a_sheet_has_rows_are_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(excel, "MOST_ROWS", 4)
    three = piece({"_id": 1}, {"_id": 2}, {"_id": 3})
    assert EXCEL.count(io.BytesIO(written(EXCEL, {"c": [three], "d": [three]}))) == Counter(c=3, d=3)
    survey = EXCEL.survey(WriteOptions())
    assert survey is not None
    survey.see("c", three)
    with pytest.raises(ExcelLimitError, match=r"^c: it has more documents than the 3 rows .* choose the format csv$"):
        survey.see("c", piece({"_id": 4}))


@pytest.mark.parametrize("text", ["x" * 32_768, "😀" * 16_384, {"x": "y" * 32_760}])
def test_text_too_long_for_a_cell_is_refused(text: Any) -> None:
    with pytest.raises(ExcelLimitError, match=r"^c: a text in column 'long' is longer .* choose the format csv$"):
        written(EXCEL, {"a": [piece({"_id": 1})], "c": [piece({"_id": 1, "long": text})]})


def test_text_as_long_as_a_cell_is_taken() -> None:
    assert sheet({"_id": "x" * 32_767})["B2"].value == "x" * 32_767
    assert sheet({"_id": "😀" * 16_383})["B2"].value == "😀" * 16_383
    assert sheet({"_id": "&" * 32_767})["B2"].value == "&" * 32_767  # escaped it is longer


def test_more_bytes_than_excel_opens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel, "MOST_BYTES", 2_000)
    written(EXCEL, {"c": [piece({"_id": 1})]})
    with pytest.raises(ExcelLimitError, match=r"^c: it is more than a file for Excel can hold; choose the format csv$"):
        written(EXCEL, {"c": [piece(*({"_id": n} for n in range(100)))]})


def test_columns_beyond_the_bound_are_in_the_rest() -> None:
    found = values(sheet({"_id": 1, **{f"f{n}": n for n in range(2_100)}}))
    assert (len(found[0]), found[0][-1]) == (2_002, "_rest")
    assert found[1][-1].startswith('{"f1999":1999,')


def test_with_dotted_the_fields_of_embedded_documents_have_columns() -> None:
    found = values(sheet({"_id": 1, "up": {"p": "iOS", "at": datetime(2024, 1, 1, tzinfo=UTC)}}, dotted=True))
    assert found == [("_col", "_id", "up.p", "up.at"), ("c", 1, "iOS", EPOCH.replace(year=2024))]


# Files


def test_the_file_depends_on_nothing_but_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(EXCEL, {"c": [piece({"_id": 1})]})
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert written(EXCEL, {"c": [piece({"_id": 1})]}) == first


def test_a_collections_bytes_end_with_it() -> None:
    """So that the manifest's hash of a section is that of its collection alone."""
    memory = io.BytesIO()
    survey = EXCEL.survey(WriteOptions())
    assert survey is not None
    for name in ("a", "b"):
        survey.see(name, piece({"_id": name}))
    writer = EXCEL.writer(memory, WriteOptions(), survey)
    for number, name in enumerate(("a", "b"), 2):
        begin = memory.tell()
        writer.write(name, piece({"_id": name}))
        assert writer.end_collection() == 0
        section = memory.getvalue()[begin:]
        assert section.startswith(b"PK\3\4")
        assert section[30:].startswith(f"xl/worksheets/sheet{number}.xml".encode())
        assert section[-16:-12] == b"PK\7\b"  # the member's end
    writer.close()
    assert EXCEL.count(io.BytesIO(memory.getvalue())) == Counter(a=1, b=1)


@pytest.mark.parametrize("dotted", [True, False])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(raw_bson.documents(), min_size=1, max_size=6))
def test_what_is_taken_apart_at_once_is_written_as_what_is_walked(
    monkeypatch: pytest.MonkeyPatch, dotted: bool, documents: list[bytes]
) -> None:
    pieces, options = {"c": [raw(*documents * 40)]}, WriteOptions(dotted=dotted)
    monkeypatch.setattr(columns, "WORTH_A_LAYOUT", 10**6)
    walked = unpacked(written(EXCEL, pieces, options))
    monkeypatch.setattr(columns, "WORTH_A_LAYOUT", 8)
    assert unpacked(written(EXCEL, pieces, options)) == walked


def test_damaged_text_is_refused_by_name_alone() -> None:
    broken = raw_bson.document((2, b"v", raw_bson.string(b"secret\xff")))
    with pytest.raises(EncodingError, match=r"^collection 'c': field \"v\" holds text") as raised:
        written(EXCEL, {"c": [raw(broken)]})
    assert raised.value.__context__ is None


def test_pandas_reads_it_without_warnings() -> None:
    pandas = pytest.importorskip("pandas")
    when = datetime(2024, 2, 29, 12, 30, 0, 123_000, tzinfo=UTC)
    data = written(EXCEL, {"c": [piece(*({"_id": n, "x": n / 8, "when": when, "text": " ü "} for n in range(3)))]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = pandas.read_excel(io.BytesIO(data), sheet_name="c")
    assert list(frame.columns) == ["_col", "_id", "x", "when", "text"]
    assert frame["_id"].tolist() == [0, 1, 2]
    assert frame["x"].tolist() == [0, 0.125, 0.25]
    assert abs(frame["when"][0] - when.replace(tzinfo=None)) < timedelta(milliseconds=1)
    assert frame["text"][2] == " ü "


# The file as ECMA-376 has it, as far as Excel is known to insist

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
WORKBOOK = written(
    EXCEL,
    {
        "users": [piece({"_id": 1, "at": datetime(2024, 1, 1, tzinfo=UTC), "s": " x", "ok": True}, {"_id": 2})],
        "a \"&<>'": [piece({"_id": 1})],
    },
)


def targets(files: dict[str, bytes], relations: str, folder: str) -> dict[str, tuple[str, str]]:
    """Return the kind and the file of each relation."""
    return {
        found.attrib["Id"]: (found.attrib["Type"].rpartition("/")[2], folder + found.attrib["Target"])
        for found in ET.fromstring(files[relations])
    }


def test_every_part_is_related_and_has_its_type() -> None:
    files = unpacked(WORKBOOK)
    assert targets(files, "_rels/.rels", "") == {"rId1": ("officeDocument", "xl/workbook.xml")}
    related = targets(files, "xl/_rels/workbook.xml.rels", "xl/")
    sheets = [f"xl/worksheets/sheet{number}.xml" for number in (1, 2, 3)]
    assert sorted(related.values()) == [("styles", "xl/styles.xml"), *(("worksheet", each) for each in sheets)]
    book = ET.fromstring(files["xl/workbook.xml"])
    assert [child.tag.removeprefix(MAIN) for child in book] == ["bookViews", "sheets"]
    listed = [(each.attrib["name"], related[each.attrib[f"{RELATION}id"]][1]) for each in book.iter(f"{MAIN}sheet")]
    assert listed == list(zip(["Contents", "users", 'a "&<>'], sheets, strict=True))
    assert sorted(each.attrib["sheetId"] for each in book.iter(f"{MAIN}sheet")) == ["1", "2", "3"]
    types = {
        each.attrib["PartName"]: re.sub(r".*\.(.*)\+xml", r"\1", each.attrib["ContentType"])
        for each in ET.fromstring(files["[Content_Types].xml"])
        if "PartName" in each.attrib
    }
    assert types == {
        "/xl/workbook.xml": "main",
        "/xl/styles.xml": "styles",
        **{f"/{each}": "worksheet" for each in sheets},
    }
    assert set(files) == {name[1:] for name in types} | {
        "_rels/.rels",
        "xl/_rels/workbook.xml.rels",
        "[Content_Types].xml",
    }


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_sheets_elements_stand_in_their_order(number: int) -> None:
    found = ET.fromstring(unpacked(WORKBOOK)[f"xl/worksheets/sheet{number}.xml"])
    order = ["dimension", "sheetViews", "sheetFormatPr", "cols", "sheetData"]
    assert [child.tag.removeprefix(MAIN) for child in found] == order
    assert [child.tag.removeprefix(MAIN) for child in found[1][0]] == ["pane", "selection"]
    assert [view.get("tabSelected") for view in found[1]] == ["1" if number == 1 else None]
    header, *_ = rows = list(found[4])
    assert found[0].attrib["ref"] == f"A1:{'ABCDE'[len(header) - 1]}{len(rows)}"
    assert [row.attrib["r"] for row in rows] == [str(at) for at in range(1, len(rows) + 1)]
    for row in rows:
        references = [cell.attrib["r"] for cell in row]
        assert references == sorted(set(references))
        assert all(reference[1:] == row.attrib["r"] for reference in references)
        assert {cell.get("t") for cell in row} <= {"inlineStr", "b", None}
        for cell in row:
            assert [child.tag.removeprefix(MAIN) for child in cell] == ["is" if cell.get("t") == "inlineStr" else "v"]


def test_styles_are_those_that_cells_name() -> None:
    styles = ET.fromstring(unpacked(WORKBOOK)["xl/styles.xml"])
    assert [child.tag.removeprefix(MAIN) for child in styles] == [
        "numFmts",
        "fonts",
        "fills",
        "borders",
        "cellStyleXfs",
        "cellXfs",
        "cellStyles",
    ]
    for counted in styles:
        assert counted.attrib["count"] == str(len(counted))


def test_dates_fit_into_their_columns() -> None:
    widths = {name: each.width for name, each in workbook(WORKBOOK)["users"].column_dimensions.items()}
    assert widths["C"] >= len("2024-01-01 00:00:00.000")
    assert widths["B"] < widths["C"]


def test_the_zip_file_is_of_the_form_that_excel_takes() -> None:
    with zipfile.ZipFile(io.BytesIO(WORKBOOK)) as archive:
        for info in archive.infolist():
            header = WORKBOOK[info.header_offset :][:30]
            sizes_and_extra = header[18:26], header[28:30]
            assert sizes_and_extra == (bytes(8), bytes(2)), "Zip64 in a local header: Excel finds the file damaged"
            assert info.extract_version == 20


def test_a_workbook_that_does_not_hold_what_it_lists_is_refused() -> None:
    files = unpacked(written(EXCEL, {"c": [piece({"_id": 1}, {"_id": 2})], "d": [piece({"_id": 1})]}))
    contents, first, second = (f"xl/worksheets/sheet{number}.xml" for number in (1, 2, 3))
    assert EXCEL.count(io.BytesIO(packed(files))) == Counter(c=2, d=1)
    for changed in (
        {name: content for name, content in files.items() if name != contents},
        {name: content for name, content in files.items() if name != second},
        files | {first: files[second]},
        files | {second: files[second][:-1]},
        files | {"xl/worksheets/sheet4.xml": files[second]},
        files | {contents: files[contents].replace(b"<v>2</v>", b"<v>3</v>")},
        files | {contents: files[contents].replace(b">d<", b">c<")},
        files | {contents: files[first]},
        files | {contents: b"<x>"},
        files | {contents: b""},
    ):
        with pytest.raises(IncompleteError):
            EXCEL.count(io.BytesIO(packed(changed)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_noticed_or_changes_no_row(data: st.DataObject) -> None:
    content = bytearray(written(EXCEL, {"users": [piece({"_id": 1, "a": "b"}, {"_id": 2})]}))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        counted = EXCEL.count(io.BytesIO(bytes(content)))
    except IncompleteError:
        return
    assert counted == Counter(users=2)


def test_every_member_is_whole() -> None:
    with zipfile.ZipFile(io.BytesIO(written(EXCEL, {"c": [piece({"_id": 1})]}))) as archive:
        assert archive.testzip() is None
