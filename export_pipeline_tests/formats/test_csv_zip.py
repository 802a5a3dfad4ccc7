"""CSV as spreadsheets and databases read it."""

import csv
import io
import json
import sys
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export_pipeline.errors import IncompleteError
from export_pipeline.formats import columns
from export_pipeline.formats.columns import ColumnSurvey
from export_pipeline.formats.extended_json import EncodingError, encode_document
from export_pipeline.formats.protocol import SplittingWriter, WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.mongo.bson_stream import Piece, whole_documents
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.test_bson_archive import packed, unpacked
from export_pipeline_tests.formats.test_formats import piece, written

CSV = FORMATS["csv"]
csv.field_size_limit(sys.maxsize)


def table(data: bytes, collection: str = "c") -> list[list[str]]:
    content = unpacked(data)[f"{collection}.csv"].decode()
    return list(csv.reader(io.StringIO(content, newline=""), strict=True))


def rows(*documents: dict[str, Any], **options: Any) -> list[list[str]]:
    """Write documents and read them back."""
    return table(written(CSV, {"c": [piece(*documents)]}, WriteOptions(**options)))


def raw(*documents: bytes) -> Piece:
    return Piece(b"".join(documents), whole_documents(b"".join(documents))[0])


def test_the_file_is_what_rfc_4180_says() -> None:
    document = {"_id": 1, "a,b": "x,y", "quoted": 'say "hi"', "lines": "1\r\n2\n3\r4", "plain": "ü 'x' ;"}
    assert unpacked(written(CSV, {"c": [piece(document)]}))["c.csv"].decode() == (
        '_col,_id,"a,b",quoted,lines,plain\r\nc,1,"x,y","say ""hi""","1\r\n2\n3\r4",ü \'x\' ;\r\n'
    )


def test_each_collection_has_a_file_of_its_own_with_its_own_columns() -> None:
    data = written(CSV, {"users": [piece({"_id": 1, "a": 2})], "none": [], "events": [piece({"_id": 3, "b": 4})]})
    assert list(unpacked(data)) == ["users.csv", "events.csv"]
    assert table(data, "users") == [["_col", "_id", "a"], ["users", "1", "2"]]
    assert table(data, "events") == [["_col", "_id", "b"], ["events", "3", "4"]]


def test_columns_are_all_fields_as_they_first_come_after_the_id() -> None:
    assert rows({"b": 1, "_id": "x"}, {"_id": "y", "a": 2, "b": 3}, {"c": None, "a": ""}) == [
        ["_col", "_id", "b", "a", "c"],
        ["c", "x", "1", "", ""],
        ["c", "y", "3", "2", ""],
        ["c", "", "", "", ""],
    ]


VALUES: list[tuple[Any, str]] = [
    ("text", "text"),
    (-5, "-5"),
    (bson.Int64(-(2**63)), "-9223372036854775808"),
    (-0.5, "-0.5"),
    (1e300, "1E+300"),
    (float("nan"), "NaN"),
    (float("-inf"), "-Infinity"),
    (True, "true"),
    (False, "false"),
    (None, ""),
    (datetime(2024, 2, 29, 23, 59, 59, 7000, UTC), "2024-02-29T23:59:59.007Z"),
    (datetime(1969, 12, 31, tzinfo=UTC), "1969-12-31T00:00:00.000Z"),
    (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
    (DatetimeMS(253_402_300_800_000), '{"$date":{"$numberLong":"253402300800000"}}'),
    (DatetimeMS(2**63 - 1), '{"$date":{"$numberLong":"9223372036854775807"}}'),
    (bson.ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567"),
    (bson.Decimal128("-1.50"), "-1.50"),
    ({"a": [1, {"$b": "ü"}]}, '{"a":[1,{"$b":"ü"}]}'),
    ([], "[]"),
    ({}, "{}"),
    (b"\0\1", '{"$binary":{"base64":"AAE=","subType":"00"}}'),
    (bson.Timestamp(1, 2), '{"$timestamp":{"t":1,"i":2}}'),
    (bson.Regex("^a"), '{"$regularExpression":{"pattern":"^a","options":""}}'),
    (bson.MinKey(), '{"$minKey":1}'),
    ("a\0b", "a\0b"),
    ("\ufeffbom", "\ufeffbom"),
    ("x" * 200_000, "x" * 200_000),
]


@pytest.mark.parametrize(("value", "text"), VALUES)
def test_values(value: Any, text: str) -> None:
    assert rows({"_id": 1, "v": value})[1][2] == text


def test_text_that_is_not_quite_unicode_is_shown_and_what_is_none_is_refused() -> None:
    lone = raw_bson.document((2, b"v", raw_bson.string(b"x\xed\xa0\x80")), (2, b"\xed\xa0\x80", raw_bson.string(b"y")))
    assert table(written(CSV, {"c": [raw(lone)]})) == [["_col", "_id", "v", "\\ud800"], ["c", "", "x\\ud800", "y"]]
    broken = raw_bson.document((2, b"v", raw_bson.string(b"secret\xff")))
    with pytest.raises(
        EncodingError, match=r"^collection 'c': field \"v\" holds text that is not valid UTF-8$"
    ) as raised:
        written(CSV, {"c": [raw(broken)]})
    assert raised.value.__context__ is None  # UnicodeDecodeError would carry the text


@pytest.mark.parametrize(
    "document",
    [
        raw_bson.document((0x99, b"v", b"")),
        raw_bson.document((2, b"v", b"\xff\xff\xff\x7f")),
        raw_bson.document((2, b"v", b"\0\0\0\0")),
        raw_bson.document((8, b"v", b"\2")),
        raw_bson.document((3, b"v", b"\3\0\0\0")),
        raw_bson.document((1, b"v", b"1234")),
        raw_bson.document((2, b"v\xff", raw_bson.string(b""))),
        b"\7\0\0\0\2v\0",
    ],
)
@pytest.mark.parametrize("dotted", [True, False])
def test_damaged_documents_are_refused(document: bytes, dotted: bool) -> None:
    with pytest.raises(EncodingError, match=r"^collection 'c': "):
        written(CSV, {"c": [raw(document)]}, WriteOptions(dotted=dotted))


# Many documents, which are taken apart at once


@pytest.mark.parametrize("dotted", [True, False])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(documents=st.lists(raw_bson.documents(), min_size=1, max_size=6), most=st.integers(1, 8))
def test_what_is_taken_apart_at_once_is_written_as_what_is_walked(
    monkeypatch: pytest.MonkeyPatch, dotted: bool, documents: list[bytes], most: int
) -> None:
    monkeypatch.setattr(columns, "MOST_COLUMNS", most)
    pieces, options = {"c": [raw(*documents * 40)]}, WriteOptions(dotted=dotted)
    monkeypatch.setattr(columns, "WORTH_A_LAYOUT", 10**6)
    walked = table(written(CSV, pieces, options))
    monkeypatch.setattr(columns, "WORTH_A_LAYOUT", 8)
    assert table(written(CSV, pieces, options)) == walked


@pytest.mark.parametrize(("value", "text"), VALUES[:-1])
def test_values_of_many_documents(value: Any, text: str) -> None:
    written_rows = rows(*({"_id": n, "v": value} for n in range(1_200)), {"_id": "last", "v": value, "more": 1})
    assert {row[2] for row in written_rows[1:]} == {text}
    assert [row[1] for row in written_rows[1:-1]] == [str(n) for n in range(1_200)]
    assert written_rows[-1][3] == "1"


def test_the_rows_are_the_same_however_the_documents_come() -> None:
    documents = [{"_id": n, "a": [n], **({"b": "x,"} if n % 3 else {}), "at": n / 7} for n in range(2_000)]
    whole = table(written(CSV, {"c": [piece(*documents)]}))
    apart = table(written(CSV, {"c": [piece(*documents[n : n + 77]) for n in range(0, 2_000, 77)]}))
    assert whole == apart
    assert whole[-1] == ["c", "1999", "[1999]", "285.57142857142856", "x,"]


def test_one_bad_text_among_many_is_named() -> None:
    many = [raw_bson.document((2, b"v", raw_bson.string(b"fine"))) for _ in range(1_000)]
    lone = raw_bson.document((2, b"v", raw_bson.string(b"x\xed\xa0\x80")))
    assert [row[2] for row in table(written(CSV, {"c": [raw(*many, lone)]}))][-2:] == ["fine", "x\\ud800"]
    with pytest.raises(EncodingError, match=r"^collection 'c': field \"v\" holds text") as raised:
        written(CSV, {"c": [raw(*many, raw_bson.document((2, b"v", raw_bson.string(b"secret\xff"))))]})
    assert raised.value.__context__ is None


def test_what_a_part_may_yet_take_is_no_less_than_it_takes() -> None:
    survey, memory = ColumnSurvey(dotted=False), io.BytesIO()
    worst = piece(*({"_id": None, "a": [bson.MinKey()] * 20, "q": '"' * 50} for _ in range(50)))
    for name in ("users", "events"):
        survey.see(name, worst)
    writer = CSV.writer(memory, WriteOptions(), survey)
    assert isinstance(writer, SplittingWriter)
    for name in ("users", "events"):
        expected = memory.tell() + writer.to_come(name, len(worst.data), len(worst))
        writer.write(name, worst)
        writer.end_collection()
    writer.close()
    assert memory.tell() <= expected


# Formulas


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", '=cmd|"/C calc"!A1', "\uff1d1"])
def test_text_that_a_spreadsheet_would_run_is_made_harmless_unless_asked_not_to(text: str) -> None:
    document = {"_id": text, text: text, "n": -1, "x": -0.5}
    assert rows(document) == [["_col", "_id", f"'{text}", "n", "x"], ["c", f"'{text}", f"'{text}", "-1", "-0.5"]]
    assert rows(document, formulas=True) == [["_col", "_id", text, "n", "x"], ["c", text, text, "-1", "-0.5"]]


def test_a_collections_name_is_no_formula_either() -> None:
    data = written(CSV, {"=x": [piece({"_id": 1})]})
    assert table(data, "=x")[1] == ["'=x", "1"]
    assert CSV.count(io.BytesIO(data)) == Counter({"=x": 1})


# Names


def test_fields_that_are_called_like_the_tag_make_place_for_it() -> None:
    documents = piece({"_id": 1, "_col": 2}, {"_id": 2, "__col": 3}, {"_id": 3, "a": {"_col": 4}})
    survey = CSV.survey(WriteOptions(dotted=True))
    assert survey is not None
    survey.see("c", documents)
    memory = io.BytesIO()
    writer = CSV.writer(memory, WriteOptions(dotted=True), survey)
    writer.write("c", documents)
    assert writer.end_collection() == 2
    writer.close()
    assert table(memory.getvalue())[0] == ["_col", "_id", "__col", "___col", "a._col"]


def test_with_dotted_the_fields_of_embedded_documents_have_columns() -> None:
    documents: list[dict[str, Any]] = [
        {"_id": {"a": 1}, "up": {"p": "iOS", "v": {"x": 1}}, "n": [{"p": 1}]},
        {"_id": 2, "up": {"q": True}},
        {"_id": 3, "up": {}},
        {"_id": 4, "up": "text"},
    ]
    assert rows(*documents, dotted=True) == [
        ["_col", "_id", "up.p", "up.v", "n", "up.q", "up"],
        ["c", '{"a":1}', "iOS", '{"x":1}', '[{"p":1}]', "", ""],
        ["c", "2", "", "", "", "true", ""],
        ["c", "3", "", "", "", "", "{}"],
        ["c", "4", "", "", "", "", "text"],
    ]
    assert rows(*documents)[0] == ["_col", "_id", "up", "n"]


def test_a_name_with_a_dot_and_a_dotted_one_share_a_column_and_lose_nothing() -> None:
    assert rows({"a.b": 1, "a": {"b": 2}}, {"a": {"b": 3}}, dotted=True) == [
        ["_col", "_id", "a.b", "_rest"],
        ["c", "", "1", '{"a.b":2}'],
        ["c", "", "3", ""],
    ]


def test_such_names_lose_nothing_where_documents_are_many() -> None:
    both: dict[str, Any] = {"a.b": 1, "a": {"b": 2}}
    one: dict[str, Any] = {"a": {"b": 3}}
    lines = rows(*[both, one] * 1_000, dotted=True)
    assert lines[0] == ["_col", "_id", "a.b", "_rest"]
    assert lines[1:] == [["c", "", "1", '{"a.b":2}'], ["c", "", "3", ""]] * 1_000


def test_a_field_that_comes_twice_and_one_called_rest_are_in_the_rest() -> None:
    twice = raw_bson.document((0x10, b"a", b"\1\0\0\0"), (0x0A, b"a", b""), (8, b"_rest", b"\1"))
    assert table(written(CSV, {"c": [raw(twice)]})) == [
        ["_col", "_id", "a", "_rest"],
        ["c", "", "1", '{"a":null,"_rest":true}'],
    ]


@pytest.mark.parametrize("dotted", [True, False])
def test_columns_are_bounded_and_so_is_what_is_remembered(dotted: bool) -> None:
    documents = [{"_id": n, f"field {n}": n, "map": {f"{n}": n}, f"deep {n}": {"x": 1}} for n in range(3_000)]
    data = written(CSV, {"c": [piece(*documents[:1_000]), piece(*documents[1_000:])]}, WriteOptions(dotted=dotted))
    header, *lines = table(data)
    assert len(header) == columns.MOST_COLUMNS + 2
    assert header[-1] == "_rest"
    assert json.loads(lines[-1][-1]) == (
        {"field 2999": 2999, "map.2999": 2999, "deep 2999.x": 1}
        if dotted
        else {"field 2999": 2999, "deep 2999": {"x": 1}}
    )
    assert CSV.count(io.BytesIO(data)) == Counter(c=3_000)


def test_what_a_survey_keeps_does_not_grow() -> None:
    survey = ColumnSurvey(dotted=True)
    for start in range(0, 30_000, 1_000):
        survey.see("c", piece(*({f"{n}": {f"{n}": 1}, "x" * 300 + str(n): 1} for n in range(start, start + 1_000))))
    table_ = survey.table("c")
    assert len(table_.header) <= columns.MOST_COLUMNS + 2
    assert len(table_._slots) <= columns._CACHED + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(raw_bson.documents(), min_size=1, max_size=8), most=st.integers(1, 8))
def test_nothing_is_lost_whatever_the_documents(
    monkeypatch: pytest.MonkeyPatch, documents: list[bytes], most: int
) -> None:
    monkeypatch.setattr(columns, "MOST_COLUMNS", most)
    header, *lines = table(written(CSV, {"c": [raw(*documents)]}, WriteOptions(formulas=True)))
    assert len(lines) == len(documents)
    for document, line in zip(documents, lines, strict=True):
        fields = json.loads(encode_document(document, "relaxed"), object_pairs_hook=list)
        cells = (
            dict(zip(header[:-1], line, strict=False)) if "_rest" in header else dict(zip(header, line, strict=True))
        )
        rest = json.loads(line[-1] or "{}", object_pairs_hook=list) if "_rest" in header else []
        for name, value in fields:
            label = f"_{name}" if name.strip("_") == "col" and name.startswith("_") else name
            if label in cells:
                cell = cells.pop(label)
                assert cell or value in (None, "")
                if isinstance(value, bool | int):
                    assert cell == json.dumps(value)
            else:
                rest.remove((label, value) if (label, value) in rest else [label, value])
        assert not rest
        assert not [cell for name, cell in cells.items() if cell and name != "_col"]


def test_names_that_other_programs_stumble_over_are_columns_like_others() -> None:
    names = ["__proto__", "constructor", "$date", "$oid", "a.b", "a$b", "", " ", "é", '"', "a,b", "x\ny"]
    header, row = rows({"_id": 1, **dict.fromkeys(names, 2)})
    assert header == ["_col", "_id", *names]
    assert row == ["c", "1", *["2"] * len(names)]
    nested = {"_id": 1, "n": dict.fromkeys(names, 2)}
    assert json.loads(rows(nested)[1][2]) == nested["n"]


def test_a_hundred_levels_are_one_cell() -> None:
    deep: dict[str, Any] = {"end": 1}
    for _ in range(100):
        deep = {"a": deep}
    for options in ({}, {"dotted": True}):
        ((_, _, cell),) = rows({"_id": 1, "deep": deep}, **options)[1:]
        assert cell.count("{") == (100 if options else 101)
        assert json.loads(cell) == (deep["a"] if options else deep)


def test_a_document_as_large_as_mongodb_stores() -> None:
    text = 'x"' * 8_000_000
    header, row, last = rows({"_id": 1, "text": text}, {"_id": 2, "n": {"text": text[:1_000_000]}})
    assert header == ["_col", "_id", "text", "n"]
    assert row[2] == text
    assert json.loads(last[3])["text"] == text[:1_000_000]


def test_of_very_many_keys_none_is_lost() -> None:
    many = [{"_id": n, **{f"{n * 5_000 + key}": key for key in range(5_000)}} for n in range(40)]
    header, *lines = rows(*many)
    assert len(header) == columns.MOST_COLUMNS + 2
    found = [dict(zip(header[2:-1], line[2:-1], strict=True)) | json.loads(line[-1] or "{}") for line in lines]
    assert [{key: int(value) for key, value in each.items() if value != ""} for each in found] == [
        {key: value for key, value in each.items() if key != "_id"} for each in many
    ]


# Reading back


def test_duckdb_reads_it_as_well(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    documents = [{"_id": n, "text": 'a "b"\r\n,c;' * n, "when": datetime(2024, 1, 1, tzinfo=UTC)} for n in range(50)]
    with zipfile.ZipFile(io.BytesIO(written(CSV, {"c": [piece(*documents)]}))) as archive:
        archive.extractall(tmp_path)
    assert duckdb.sql(f"SELECT count(*) FROM read_csv('{tmp_path}/c.csv')").fetchall() == [(50,)]
    found = duckdb.sql(f"SELECT _id, text, year(\"when\") FROM read_csv('{tmp_path}/c.csv', header=true)").fetchall()
    assert found == [(each["_id"], each["text"] or None, 2024) for each in documents]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_rows_are_counted_however_the_bytes_come(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    data = written(CSV, {"c": [piece(*({"_id": n, "a": '"\r\n",\r\n"' * n, "b": "\r"} for n in range(5)))]})
    monkeypatch.setattr("export_pipeline.formats.zip_stream._CHUNK", size)
    assert CSV.count(io.BytesIO(data)) == Counter(c=5)


@pytest.mark.parametrize(
    "files",
    [
        {"c.csv": b""},
        {"c.csv": b"_col,_id"},
        {"c.csv": b"_id\r\n"},
        {"c.csv": b'_col,"\r\n'},
        {"c.csv": b"_col\r\nc\n"},
        {"c.txt": b"_col\r\n"},
        {"../c.csv": b"_col\r\n"},
    ],
)
def test_a_zip_file_of_something_else_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(IncompleteError):
        CSV.count(io.BytesIO(packed(files)))


@given(st.data())
def test_a_changed_byte_is_noticed_or_changes_no_row(data: st.DataObject) -> None:
    content = bytearray(written(CSV, {"users": [piece({"_id": 1, "a": "b"}, {"_id": 2})]}))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        counted = CSV.count(io.BytesIO(bytes(content)))
    except IncompleteError:
        return
    assert counted == Counter(users=2)


def test_the_file_depends_on_nothing_but_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(CSV, {"c": [piece({"_id": 1})]})
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert written(CSV, {"c": [piece({"_id": 1})]}) == first
