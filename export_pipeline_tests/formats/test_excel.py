"""The workbook as openpyxl, which knows nothing of what wrote it, reads it back."""

import gc
import io
import sys
import tempfile
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

from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.formats import excel
from export_pipeline.formats.excel import ExcelLimitError
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
    """A place for temporary files, in which nothing may be left."""
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
    assert excel._unescaped(found.value) == text or excel._unescaped(found.value.replace("_x005F_", "_")) == text
    assert EXCEL.count(io.BytesIO(data)) == Counter(c=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(raw_bson.documents(), min_size=1, max_size=6))
def test_whatever_the_documents_the_workbook_can_be_read(documents: list[bytes]) -> None:
    data = written(EXCEL, {"c": [raw(*documents)]})
    assert workbook(data)["c"].max_row == len(documents) + 1
    assert EXCEL.count(io.BytesIO(data)) == Counter(c=len(documents))


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


@pytest.mark.parametrize("text", ["x" * 32_768, "😀" * 16_384, "<r>" + "&" * 10_000 + "</r>"])
def test_text_too_long_for_a_cell_is_refused_and_nothing_is_left_behind(text: str) -> None:
    with pytest.raises(ExcelLimitError, match=r"^c: a text in column 'long' is longer .* choose the format csv$"):
        written(EXCEL, {"a": [piece({"_id": 1})], "c": [piece({"_id": 1, "long": text})]})


def test_text_as_long_as_a_cell_is_taken() -> None:
    assert sheet({"_id": "x" * 32_767})["B2"].value == "x" * 32_767
    assert sheet({"_id": "😀" * 16_383})["B2"].value == "😀" * 16_383


def test_columns_beyond_the_bound_are_in_the_rest() -> None:
    found = values(sheet({"_id": 1, **{f"f{n}": n for n in range(2_100)}}))
    assert (len(found[0]), found[0][-1]) == (2_002, "_rest")
    assert found[1][-1].startswith('{"f1999":1999,')


def test_with_dotted_the_fields_of_embedded_documents_have_columns() -> None:
    found = values(sheet({"_id": 1, "up": {"p": "iOS", "at": datetime(2024, 1, 1, tzinfo=UTC)}}, dotted=True))
    assert found == [("_col", "_id", "up.p", "up.at"), ("c", 1, "iOS", EPOCH.replace(year=2024))]


# Files


def test_temporary_files_are_their_owners_alone(temporary: Path) -> None:
    survey = EXCEL.survey(WriteOptions())
    assert survey is not None
    survey.see("c", piece({"_id": 1}))
    writer = EXCEL.writer(io.BytesIO(), WriteOptions(), survey)
    writer.write("c", piece({"_id": 1}))
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_file_depends_on_nothing_but_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(EXCEL, {"c": [piece({"_id": 1})]})
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert written(EXCEL, {"c": [piece({"_id": 1})]}) == first


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(BadInputError, match=r"pip install 'export-pipeline\[excel\]'"):
        EXCEL.survey(WriteOptions())


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
