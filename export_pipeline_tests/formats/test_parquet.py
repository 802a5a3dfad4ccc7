"""Parquet as analysts open it."""

import io
import json
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from struct import unpack
from typing import Any

import bson
import duckdb
import pandas
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from export_pipeline.formats import parquet as parquet_module
from export_pipeline.formats import parquet_columns, parquet_schema
from export_pipeline.formats.bson_fields import Field, fields
from export_pipeline.formats.extended_json import EncodingError, encode_document, encode_value
from export_pipeline.formats.parquet_schema import MOST_COLUMNS, column_label
from export_pipeline.formats.protocol import SplittingWriter, WriteOptions
from export_pipeline.formats.registry import FORMATS
from export_pipeline.mongo.bson_stream import Piece, whole_documents
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.raw_bson import document, string
from export_pipeline_tests.formats.test_formats import Memory, piece, written


def test_ids_read_as_an_analyst_would_type_them() -> None:
    oid = bson.ObjectId()
    documents: list[dict[str, Any]] = [{"_id": oid}, {"_id": "text"}, {"_id": 7}, {"_id": {"a": 1}}, {"no": "id"}]
    rows = parquet.read_table(io.BytesIO(written(FORMATS["parquet"], {"c": [piece(*documents)]})))
    # MongoDB gives every document an _id; one without can only come from a view.
    assert rows["_id"].to_pylist() == [str(oid), "text", "7", '{"a":1}', None]


def test_the_whole_document_is_there_in_canonical_extended_json() -> None:
    stored = {"_id": 1, "_col": "own", "when": bson.Int64(5)}
    rows = parquet.read_table(io.BytesIO(written(FORMATS["parquet"], {"c": [piece(stored)]})))
    assert json.loads(rows["_doc"][0].as_py()) == {
        "_id": {"$numberInt": "1"},
        "_col": "own",
        "when": {"$numberLong": "5"},
    }


def test_readers_can_skip_the_other_collections() -> None:
    data = written(FORMATS["parquet"], {name: [piece({"_id": 1})] for name in ("users", "events")})
    file = parquet.ParquetFile(io.BytesIO(data))
    ranges = [file.metadata.row_group(number).column(0).statistics for number in range(file.num_row_groups)]
    assert [(found.min, found.max) for found in ranges] == [("users", "users"), ("events", "events")]


def table(*documents: Any, lossless: bool = True) -> Any:
    options = WriteOptions(lossless=lossless)
    raw = b"".join(item if isinstance(item, bytes) else bson.encode(item) for item in documents)
    parts = [Piece(raw, whole_documents(raw)[0])] if raw else []
    return parquet.read_table(io.BytesIO(written(FORMATS["parquet"], {"c": parts}, options)))


def test_columns_have_the_types_of_the_fields() -> None:
    oid, when = bson.ObjectId(), datetime(2026, 1, 2, 3, 4, 5, 6000, UTC)
    first = {
        "_id": oid,
        "i": 1,
        "l": 2,
        "d": 1.5,
        "b": True,
        "at": when,
        "s": "ü",
        "x": b"\0\1",
        "o": oid,
        "n": {"a": 1},
    }
    second = {"_id": oid, "l": bson.Int64(2**60), "d": 3, "b": None, "s": "", "n": None, "dec": bson.Decimal128("1.50")}
    found = table(first, second)
    assert [str(field.type) for field in found.schema][1:] == [
        "string",
        "int32",
        "int64",
        "double",
        "bool",
        "timestamp[ms, tz=UTC]",
        "string",
        "binary",
        "string",
        "extension<arrow.json>",
        "extension<arrow.json>",
        "string",
    ]
    assert found.drop(["_doc"]).to_pylist() == [
        {"_col": "c"} | first | {"_id": str(oid), "o": str(oid), "n": '{"a":1}', "dec": None},
        dict.fromkeys(first)
        | {"_col": "c", "_id": str(oid), "l": 2**60, "d": 3.0, "s": "", "dec": '{"$numberDecimal":"1.50"}'},
    ]
    assert found.schema.field("d").metadata[b"mongodb_types"] == b"double,int"


def test_without_the_documents_what_no_column_holds_is_kept() -> None:
    names = {f"n{number}": number for number in range(MOST_COLUMNS + 1)}
    lone = document((0x02, b"n1", string(b"\xed\xa0\x80")), (0x10, b"n0", b"\1\0\0\0"), (0x10, b"n0", b"\2\0\0\0"))
    found = table({"_id": 1, "n1": "x"}, names, {"_id": 2, "n1": "y"}, lone, lossless=False)
    assert "_doc" not in found.column_names
    assert found["_rest"].to_pylist() == [
        None,
        '{"n999":999,"n1000":1000}',
        None,
        '{"n0":1}',
    ]
    assert found["n0"].to_pylist() == [None, 0, None, 2]
    assert found["n1"].to_pylist() == ['"x"', "1", '"y"', '"\\ud800"']  # mixed, so JSON
    assert found.schema.metadata[b"other_fields"].startswith(b"only in _rest")


def test_text_that_parquet_cannot_hold_is_kept_as_json() -> None:
    found = table({"s": "x"}, document((0x02, b"s", string(b"\xed\xa0\x80"))), lossless=False)
    assert found["s"].to_pylist() == ["x", None]
    assert found["_rest"].to_pylist() == [None, '{"s":"\\ud800"}']


def test_damaged_text_is_refused() -> None:
    for lossless in (True, False):
        with pytest.raises(EncodingError, match=r"^collection 'c': field .s. holds text that is not valid UTF-8"):
            table(document((0x02, b"s", string(b"\xff"))), lossless=lossless)


def test_fields_called_like_the_files_own_columns_give_way_and_are_counted() -> None:
    documents = [{"_id": 1, "_col": 1, "__col": 2, "_doc": 3, "_rest": 4, "": 5, "Name": 6, "name": 7}, {"_id": 2}]
    found = table(*documents)
    assert found.column_names == ["_col", "_id", "__col", "___col", "__doc", "__rest", "", "Name", "name", "_doc"]
    assert found.schema.field("__col").metadata[b"mongodb_field"] == b"_col"
    survey = FORMATS["parquet"].survey(WriteOptions())
    assert survey is not None
    survey.see("c", piece(*documents))
    writer = FORMATS["parquet"].writer(Memory(), WriteOptions(), survey)
    writer.write("c", piece(*documents))
    assert writer.end_collection() == 1


def test_a_string_that_looks_like_other_fields_stays_a_string() -> None:
    trap = {"s": "x\0\x10n\0" + "a" * 4 + "\x02t\0\2\0\0\0b", "t": "c"}
    usual = [{"s": "x", "n": 1, "t": "y"}] * 2000
    found = table(*usual, trap, *usual)
    assert found["s"][2000].as_py() == trap["s"]
    assert found["n"][2000].as_py() is None
    assert found["t"][2000].as_py() == "c"
    assert found["n"].to_pylist().count(1) == 4000


def test_a_field_that_hides_behind_a_string_is_kept() -> None:
    usual: list[Any] = [{"s": "x", "o": bson.ObjectId()}, {"s": "x"}] * 2000
    # To a pattern, what follows the first zero byte of the text looks like an ObjectId, with a real field inside.
    trap = {"s": "x\0\x07o\0ab", "new": 5}
    found = table(*usual, trap, *usual, lossless=False)
    assert found["s"][4000].as_py() == trap["s"]
    assert found["o"][4000].as_py() is None
    assert json.loads(found["_rest"][4000].as_py()) == {"new": 5}
    assert found["_rest"].null_count == 8000


def test_names_that_programs_trip_over_are_columns_like_others() -> None:
    names = ["__proto__", "$date", "a.b", "$oid", "constructor", "with space", 'q"uote', "naïve", "<b>", "_", "null"]
    stored = {"_id": 1} | {name: number for number, name in enumerate(names)}
    found = table(stored)
    assert found.drop(["_col", "_doc"]).to_pylist() == [stored]
    assert json.loads(found["_doc"][0].as_py())["$date"] == {"$numberInt": "1"}


def test_of_a_million_names_some_are_columns_and_all_are_kept() -> None:
    documents = [{"_id": n, "usual": n / 2} | {f"{n}-{m}": m for m in range(10_000)} for n in range(100)]
    found = table(*documents, lossless=False)
    assert found.num_columns == MOST_COLUMNS + 2  # and the tag, and the rest
    held = found.column_names[1:-1]
    for stored, row in zip(documents, found.to_pylist(), strict=True):
        rest = json.loads(row["_rest"]) if row["_rest"] else {}
        assert {name: row[name] for name in held if row[name] is not None} | rest == stored


def event(number: int) -> dict[str, Any]:
    """An event as plugins store them: nested, with fields that some lack or hold as another type."""
    stored: dict[str, Any] = {
        "_id": bson.ObjectId(f"{number:024x}") if number % 3 else f"id {number}",
        "ts": bson.Int64(1_700_000_000_000 + number),
        "cd": datetime.fromtimestamp(1_700_000_000 + number, UTC),
        "c": number % 5 or bson.Int64(2**40),
        "s": number / 8 if number % 4 else number,
        "on": number % 2 == 0 if number % 7 else None,
        "text": f"Straße {number}\n" if number % 6 else "",
        "up": {"cc": "TR", "oid": bson.ObjectId(), "x": float("nan")} if number % 5 else {"cc": 'a "b"'},
        "mixed": [number, str(number), {"a": number}, ["x"] * (number % 3), None][number % 5],
        "hash": number.to_bytes(16, "big"),
    }
    for field in ("on", "text", "up", "mixed"):
        if number % 11 == len(field):
            del stored[field]
    if number % 400 == 399:
        stored[f"key {number}"] = {"rare": bson.Regex("a", "i")}
    return stored


@pytest.mark.parametrize("lossless", [True, False])
def test_events_go_through_the_fast_path_and_come_out_as_walked(
    lossless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [event(number) for number in range(8000)]
    walked = 0

    def counting(*arguments: Any) -> Any:
        nonlocal walked
        walked += 1
        return fields(*arguments)

    monkeypatch.setattr(parquet_columns, "fields", counting)
    fast = table(*documents, lossless=lossless)
    assert walked < 200
    monkeypatch.setattr(parquet_schema, "WORTH_A_PATTERN", 10_000)
    slow = table(*documents, lossless=lossless)
    assert walked >= 8000
    assert fast.schema.equals(slow.schema, check_metadata=True)
    assert fast.schema.field("mixed").metadata[b"mongodb_types"] == b"array,int,null,object,string"
    for name in fast.column_names:  # as text, since NaN is not equal to itself
        assert repr(fast[name].to_pylist()) == repr(slow[name].to_pylist()), name


def test_row_groups_are_of_one_collection_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "ROW_GROUP_BYTES", 20_000)
    monkeypatch.setattr(parquet_module, "_MORE_FOR_A_COLUMN", 0)
    collections = {name: [piece(*({"_id": n, name: n} for n in range(3000)))] for name in ("users", "events")}
    file = parquet.ParquetFile(io.BytesIO(written(FORMATS["parquet"], collections)))
    groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    assert len(groups) > 4
    assert all(len(group["_col"].unique()) == 1 for group in groups)
    whole = file.read()
    assert whole["_id"].to_pylist() == list(range(3000)) * 2
    assert whole["users"].to_pylist() == [*range(3000), *[None] * 3000]


def test_a_collection_that_nobody_ended_does_not_tag_the_next() -> None:
    memory = Memory()
    writer = FORMATS["parquet"].writer(memory, WriteOptions())
    for collection in ("users", "events"):
        writer.write(collection, piece({"_id": 1}))
    writer.end_collection()
    writer.close()
    assert FORMATS["parquet"].count(io.BytesIO(memory.getvalue())) == {"users": 1, "events": 1}


def test_what_is_yet_to_come_is_never_more_than_was_said() -> None:
    randomness = random.Random(1)

    def documents(kind: int) -> Piece:
        if kind == 0:  # nothing that compresses
            return piece(*({"_id": randomness.randbytes(20), "t": randomness.randbytes(500).hex()} for _ in range(300)))
        if kind == 1:  # JSON many times as long
            return piece(*({"u": "\1" * 50, "a": [None, bson.MaxKey()] * 20} for _ in range(300)))
        return piece(*({f"n{n % 40}": n, "_id": n, "x": n / 7} for n in range(300)))  # many columns, hardly a value

    pieces = [documents(randomness.randrange(3)) for _ in range(40)]
    options = WriteOptions(split_bytes=1_000_000)
    survey = FORMATS["parquet"].survey(options)
    assert survey is not None
    for part in pieces:
        survey.see("c" * 50, part)
    for count in (1, 2, 5, 15, 40):
        memory, collection = Memory(), "c" * 50
        writer = FORMATS["parquet"].writer(memory, options, survey)
        assert isinstance(writer, SplittingWriter)
        for part in pieces[:count]:
            before = memory.tell() + writer.to_come(collection, len(part.data), len(part))
            writer.write(collection, part)
        after = memory.tell() + writer.to_come(collection, 0, 0)
        writer.end_collection()
        writer.close()
        assert memory.tell() <= min(before, after)
    assert after < memory.tell() * 1.5  # and not much less either


def test_pandas_is_not_loaded_to_write() -> None:
    # Where it is installed, many a function of pyarrow would import it, tens of megabytes for nothing.
    program = """
import sys, bson
from export_pipeline_tests.formats.test_formats import FORMATS, piece, written
written(FORMATS["parquet"], {"c": [piece(*({"_id": n, "a": {"b": n}, "t": "x", "on": True} for n in range(1000)))]})
assert "pyarrow" in sys.modules
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    collections = {
        "users": [piece(*({"_id": bson.ObjectId(), "name": f"u{n}", "o": {"n": n}} for n in range(5)))],
        "events": [piece(*({"_id": n, "c": n, "at": when, "d": n / 2, "x": b"x"} for n in range(2000)))],
    }
    path = tmp_path / "export.parquet"
    path.write_bytes(written(FORMATS["parquet"], collections))
    return path


def test_duckdb_reads_it(file: Path) -> None:
    def rows(query: str) -> list[Any]:
        return duckdb.execute(query.replace("FILE", f"'{file}'")).fetchall()

    assert rows("SELECT _col, count(*) FROM FILE GROUP BY 1 ORDER BY 1") == [("events", 2000), ("users", 5)]
    assert rows("SELECT count(*) FROM FILE WHERE c >= 1990 AND \"at\" < TIMESTAMPTZ '2027-01-01 00:00:00Z'") == [(10,)]
    assert rows("SELECT sum((o->>'$.n')::INT) FROM FILE WHERE _col = 'users'") == [(10,)]
    assert rows("SELECT typeof(o) FROM FILE LIMIT 1") == [("JSON",)]


def test_polars_reads_it(file: Path) -> None:
    scan = polars.scan_parquet(file)
    counts = dict(scan.group_by("_col").len().collect().rows())
    assert counts == {"events": 2000, "users": 5}
    assert scan.filter((polars.col("c") >= 1990) & (polars.col("d") < 998)).collect().height == 6


def test_pandas_reads_it(file: Path) -> None:
    frame = pandas.read_parquet(file)
    assert frame["_col"].value_counts().to_dict() == {"events": 2000, "users": 5}
    assert str(frame["at"].dtype) == "datetime64[ms, UTC]"
    assert len(frame[frame["d"] > 990]) == 19
    assert frame["o"].dropna().tolist()[1] == '{"n":1}'


def expected(field: Field, raw: bytes, type_: str) -> Any:
    """What a typed column holds for a field, as struct reads it."""
    value = raw[field.value : field.end]
    if field.kind == "null":
        return None
    if type_ == "timestamp[ms, tz=UTC]":
        return unpack("<q", value)[0]
    if type_ in ("int32", "int64", "double"):
        number = unpack({4: "<i", 8: "<d" if field.kind == "double" else "<q"}[len(value)], value)[0]
        return float(number) if type_ == "double" else number
    if type_ == "bool":
        return value == b"\1"
    if type_ == "binary":
        return value[5:]
    if type_ == "extension<arrow.json>":
        return encode_value(raw[field.begin], value, "relaxed").decode()
    return value.hex() if field.kind == "objectId" else value[4:-1].decode()


@pytest.mark.parametrize("patterned", [False, True])
@settings(deadline=None)
@given(st.lists(raw_bson.documents(), min_size=1, max_size=6))
def test_every_column_holds_what_the_documents_hold(patterned: bool, raws: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_schema, "WORTH_A_PATTERN", 1 if patterned else 1000)
        found, bare = table(*raws), table(*raws, lossless=False)
    assert found["_doc"].to_pylist() == [encode_document(raw, "canonical").decode() for raw in raws]
    # As text, since NaN is not equal to itself, and 0.0 is equal to -0.0.
    assert repr(found.drop(["_doc"]).to_pylist()) == repr(bare.drop(["_rest"]).to_pylist())
    for number, raw in enumerate(raws):
        of: dict[bytes, list[Field]] = {}
        for field in fields(raw, 0, len(raw)):
            of.setdefault(field.name, []).append(field)
        rest = json.loads(bare["_rest"][number].as_py() or "{}")
        for name, those in of.items():
            column = found[column_label(name)]
            type_ = str(column.type)
            values = column.cast("int64") if type_.startswith("timestamp") else column
            if type_ == "string" and raw[those[-1].begin] == 2 and b"\xed" in raw[those[-1].value : those[-1].end]:
                assert values[number].as_py() is None
                assert name.decode() in rest
            else:
                assert repr(values[number].as_py()) == repr(expected(those[-1], raw, type_))
            assert len(those) == 1 or name.decode() in rest
        assert set(rest) <= {name.decode() for name in of}
