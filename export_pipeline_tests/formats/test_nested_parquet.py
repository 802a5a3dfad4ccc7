"""Nested Parquet as a backup keeps it: exact, and opened by the readers analysts have."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import unpack
from typing import Any

import bson
import duckdb
import polars
import pyarrow as pa
import pytest
from bson import json_util
from bson.codec_options import DatetimeConversion
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.formats import nested_parquet
from export_pipeline.formats.bson_fields import Field, fields
from export_pipeline.formats.extended_json import EncodingError, encode_document, encode_value
from export_pipeline.formats.nested_parquet import NestedParquet, documents
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.mongo.bson_stream import Piece, whole_documents
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.raw_bson import document, string
from export_pipeline_tests.formats.test_formats import Memory, piece, written

SURROGATE = b"\xed\xa0\x80"


def as_piece(*given: Any) -> Piece:
    raw = b"".join(item if isinstance(item, bytes) else bson.encode(item) for item in given)
    return Piece(raw, whole_documents(raw)[0])


def file_of(*given: Any, lossless: bool = True) -> bytes:
    return written(NestedParquet(), {"c": [as_piece(*given)] if given else []}, WriteOptions(lossless=lossless))


def table(*given: Any, lossless: bool = True) -> Any:
    return parquet.read_table(io.BytesIO(file_of(*given, lossless=lossless)))


def test_documents_become_rows_with_structs_and_lists() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 6000, UTC)
    found = table(
        {"_id": 1, "up": {"p": "Android", "at": when}, "tags": ["a", None], "log": [{"n": 1}, {"n": 2, "x": b"x"}]},
        {"_id": bson.Int64(2**60), "up": {}, "tags": [], "log": None, "_col": 1.5},
    )
    assert found.column_names == ["_id", "up", "tags", "log", "_col", "_doc"]
    assert found.drop(["_doc"]).to_pylist() == [
        {
            "_id": 1,
            "up": {"p": "Android", "at": when},
            "tags": ["a", None],
            "log": [{"n": 1, "x": None}, {"n": 2, "x": b"x"}],
            "_col": None,
        },
        {"_id": 2**60, "up": {"p": None, "at": None}, "tags": [], "log": None, "_col": 1.5},
    ]


def test_where_documents_disagree_that_place_alone_is_canonical_json() -> None:
    found = table({"v": {"a": 1, "b": 1}}, {"v": {"a": "x", "b": 2}}, {"v": {"a": {"n": bson.Int64(1)}}})
    assert found["v"].to_pylist() == [
        {"a": '{"$numberInt":"1"}', "b": 1},
        {"a": '"x"', "b": 2},
        {"a": '{"n":{"$numberLong":"1"}}', "b": None},
    ]


def test_the_file_says_where_things_come_from() -> None:
    found = table({"v": {"a": [1, 2.5]}, "_doc": 1})
    assert found.schema.field("v").type.field("a").type.field(0).metadata[b"mongodb_types"] == b"double,int"
    assert found.schema.field("__doc").metadata[b"mongodb_field"] == b"_doc"
    assert found.schema.metadata[b"other_fields"] == b"none"


def test_names_that_readers_stumble_over() -> None:
    inner = {"": 1, "a": 2, "A": 3, "x.y": 4, "x": {"y": 5}, '"': 6, "list": [7], "$date": 8, "__proto__": 9}
    data = file_of({**inner, "v": inner})
    path = io.BytesIO(data)
    assert parquet.read_table(path).to_pylist() == [{**inner, "v": inner, "_doc": next(documents(path)).decode()}]
    assert polars.read_parquet(io.BytesIO(data)).drop("_doc").to_dicts() == [{**inner, "v": inner}]


def test_repeated_names_keep_the_first_in_the_column_and_the_others_in_the_rest() -> None:
    one, two = b"\1\0\0\0", b"\2\0\0\0"
    twice = document((0x10, b"n", one), (0x10, b"n", two))
    found = table(
        document(
            (0x10, b"n", one), (0x10, b"n", two), (0x03, b"v", twice), (0x04, b"l", document((0x03, b"0", twice)))
        ),
        lossless=False,
    )
    assert found.drop(["_rest"]).to_pylist() == [{"n": 1, "v": {"n": 1}, "l": [{"n": 1}]}]
    int_1, int_2 = '{"$numberInt":"1"}', '{"$numberInt":"2"}'
    assert found["_rest"].to_pylist() == [f'{{"n":{int_2},"v":{{"n":{int_2}}},"l":[{{"n":{int_1},"n":{int_2}}}]}}']


def test_text_that_parquet_cannot_hold_is_kept_in_the_rest() -> None:
    found = table({"v": {"s": "x"}}, document((0x03, b"v", document((0x02, b"s", string(SURROGATE))))), lossless=False)
    assert found["v"].to_pylist() == [{"s": "x"}, {"s": None}]
    assert found["_rest"].to_pylist() == [None, '{"v":{"s":"\\ud800"}}']


def test_what_the_survey_did_not_see_is_kept_in_the_rest() -> None:
    survey = NestedParquet().survey(WriteOptions())
    survey.see("c", piece({"n": 1, "v": {"a": 1}, "l": [1]}))
    memory = Memory()
    writer = NestedParquet().writer(memory, WriteOptions(lossless=False), survey)
    writer.write("c", piece({"n": "x", "v": {"a": 2, "b": 3}, "l": [1, "y"], "new": True}, {"n": None, "v": 5}))
    writer.close()
    found = parquet.read_table(memory)
    assert found.drop(["_rest"]).to_pylist() == [
        {"n": None, "v": {"a": 2}, "l": [1, None]},
        {"n": None, "v": None, "l": None},
    ]
    assert found["_rest"].to_pylist() == [
        '{"n":"x","v":{"b":{"$numberInt":"3"}},"l":[{"$numberInt":"1"},"y"],"new":true}',
        '{"v":{"$numberInt":"5"}}',
    ]


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("place", [document((0x02, b"s", string(b"\xff"))), string(b"\xff")])
def test_damaged_text_is_refused_and_the_field_named(lossless: bool, place: bytes) -> None:
    kind = 0x03 if len(place) > 6 else 0x02
    with pytest.raises(EncodingError, match=r"^collection 'c': field \"outer\" holds text that is not valid UTF-8"):
        file_of(document((kind, b"outer", place)), lossless=lossless)


def test_a_second_collection_is_refused() -> None:
    writer = NestedParquet().writer(Memory(), WriteOptions())
    writer.write("users", piece({"_id": 1}))
    with pytest.raises(ValueError, match="holds one collection: 'users' is in it, so 'events' cannot be"):
        writer.write("events", piece({"_id": 1}))


# Exactness, over whatever MongoDB may hold.


def fits(type_: pa.DataType, field: Field, raw: bytes) -> bool:
    odd = field.kind == "string" and SURROGATE[:1] in raw[field.value : field.end]
    return isinstance(type_, pa.JsonType) or not odd


def chosen(types: dict[str, pa.DataType], raw: bytes, start: int, stop: int) -> dict[str, Field]:
    """The first field of each name that its column can hold."""
    found: dict[str, Field] = {}
    for field in fields(raw, start, stop):
        if fits(types[field.name.decode()], field, raw):
            found.setdefault(field.name.decode(), field)
    return found


def of_struct(type_: pa.StructType) -> dict[str, pa.DataType]:
    return {part.name: part.type for part in type_}


def expected(type_: pa.DataType, field: Field | None, raw: bytes) -> Any:
    """What a typed place holds for a field."""
    if field is None or field.kind == "null":
        return None
    value = raw[field.value : field.end]
    if isinstance(type_, pa.JsonType):
        return encode_value(raw[field.begin], value, "canonical").decode()
    if pa.types.is_struct(type_):
        inner = chosen(of_struct(type_), raw, field.value, field.end)
        return {name: expected(part, inner.get(name), raw) for name, part in of_struct(type_).items()}
    if pa.types.is_list(type_):
        items = fields(raw, field.value, field.end)
        return [expected(type_.value_type, item, raw) if fits(type_.value_type, item, raw) else None for item in items]
    if field.kind == "string":
        return value[4:-1].decode() if fits(type_, field, raw) else None
    if field.kind == "date":
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unpack("<q", value)[0])
    if field.kind == "bool":
        return value == b"\1"
    if field.kind == "objectId":
        return value.hex()
    if field.kind == "binData":
        return value[5:]
    number = unpack({4: "<i", 8: "<d" if field.kind == "double" else "<q"}[len(value)], value)[0]
    return float(number) if pa.types.is_float64(type_) else number


def left(types: dict[str, pa.DataType], raw: bytes, start: int, stop: int) -> Iterator[tuple[str, Any]]:
    """What of a document has no place, as name and JSON; of a document in it, the same in a list."""
    seen = set()
    for field in fields(raw, start, stop):
        name = field.name.decode()
        text = encode_value(raw[field.begin], raw[field.value : field.end], "canonical").decode()
        if name in seen or not fits(types[name], field, raw):
            yield name, json.loads(text, object_pairs_hook=list)
            continue
        seen.add(name)
        if field.kind == "null" or isinstance(types[name], pa.JsonType):
            continue
        if pa.types.is_struct(types[name]):
            inner = list(left(of_struct(types[name]), raw, field.value, field.end))
            if inner:
                yield name, [list(pair) for pair in inner]
        elif pa.types.is_list(types[name]):
            # Items are all named alike here, since each has a slot of its own.
            items = fields(raw, field.value, field.end)
            if any(lost_in(types[name].value_type, item, raw) for item in items):
                yield name, json.loads(text, object_pairs_hook=list)


def lost_in(type_: pa.DataType, item: Field, raw: bytes) -> bool:
    one = document((raw[item.begin], b"i", raw[item.value : item.end]))
    return bool(list(left({"i": type_}, one, 0, len(one))))


def plain(value: Any) -> str:
    """Text to compare by, since NaN is not equal to itself, and 0.0 is equal to -0.0."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, dict):
        return str({name: plain(inner) for name, inner in value.items()})
    return str([plain(inner) for inner in value]) if isinstance(value, list) else repr(value)


# Few names and much nesting, so that documents meet at the same places.
similar = st.lists(raw_bson.documents(), min_size=1, max_size=3).map(
    lambda raws: [
        document((0x03, b"v", raw), (0x04, b"l", document((0x03, b"0", raw), (0x03, b"1", raw)))) for raw in raws
    ]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(raw_bson.documents(), min_size=1, max_size=6) | similar)
def test_every_place_holds_what_the_documents_hold(raws: list[bytes]) -> None:
    data = file_of(*raws)
    found, bare = parquet.read_table(io.BytesIO(data)), table(*raws, lossless=False)
    assert list(documents(io.BytesIO(data))) == [encode_document(raw, "canonical") for raw in raws]
    assert NestedParquet().count(io.BytesIO(data)) == Counter(c=len(raws))
    rows = found.drop(["_doc"])
    types = {field.name: field.type for field in rows.schema}
    assert plain(rows.to_pylist()) == plain(bare.drop(["_rest"]).to_pylist())
    for raw, row, rest in zip(raws, rows.to_pylist(), bare["_rest"].to_pylist(), strict=True):
        top = chosen(types, raw, 0, len(raw))
        assert plain(row) == plain({name: expected(type_, top.get(name), raw) for name, type_ in types.items()})
        told = [[name, value] for name, value in left(types, raw, 0, len(raw))]
        assert str(json.loads(rest or "{}", object_pairs_hook=lambda pairs: [list(pair) for pair in pairs])) == str(
            json.loads(json.dumps(told))
        )


@settings(deadline=None)
@given(st.lists(raw_bson.documents(unusual=False), min_size=1, max_size=4))
def test_json_util_reads_the_documents_back(raws: list[bytes]) -> None:
    milliseconds = DatetimeConversion.DATETIME_MS
    options = json_util.JSONOptions(datetime_conversion=milliseconds)
    stored: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(datetime_conversion=milliseconds)
    lines = documents(io.BytesIO(file_of(*raws)))
    assert [json_util.loads(line, json_options=options) for line in lines] == [bson.decode(raw, stored) for raw in raws]


# Readers.


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.parquet"
    path.write_bytes(
        file_of(
            *(
                {
                    "_id": bson.ObjectId(),
                    "up": {"p": "Android" if n % 2 else "iOS", "fs": datetime(2026, 1, 1 + n % 28, tzinfo=UTC)},
                    "sg": {"name": f"screen {n % 5}", "mixed": n if n % 2 else "x"},
                    "custom": {"tags": ["a"] * (n % 4), "log": [{"n": n, "ok": True}]},
                }
                for n in range(1000)
            )
        )
    )
    return path


def test_duckdb_reaches_into_it(events: Path) -> None:
    def rows(query: str) -> list[Any]:
        return duckdb.execute(query.replace("FILE", f"'{events}'")).fetchall()

    assert rows("SELECT up.p, sg.name, len(custom.tags), custom.log[1].n FROM FILE LIMIT 2 OFFSET 1") == [
        ("Android", "screen 1", 1, 1),
        ("iOS", "screen 2", 2, 2),
    ]
    assert rows("SELECT count(*) FROM FILE WHERE up.fs < TIMESTAMPTZ '2026-01-02 00:00:00Z'") == [(36,)]
    assert rows("SELECT typeof(sg), typeof(custom) FROM FILE LIMIT 1") == [
        ('STRUCT("name" VARCHAR, mixed JSON)', "STRUCT(tags VARCHAR[], log STRUCT(n INTEGER, ok BOOLEAN)[])")
    ]
    assert rows("SELECT sum((sg.mixed->>'$.\"$numberInt\"')::INT) FROM FILE") == [(250_000,)]
    assert rows("SELECT sum(n) FROM (SELECT unnest(custom.log, recursive := true) FROM FILE)") == [(499_500,)]


def test_polars_reaches_into_it(events: Path) -> None:
    scan = polars.scan_parquet(events)
    tags = polars.col("custom").struct.field("tags")
    by_platform = scan.group_by(polars.col("up").struct.field("p")).agg(tags.list.len().sum()).collect()
    assert dict(by_platform.rows()) == {"Android": 1000, "iOS": 500}
    log = polars.read_parquet(events, columns=["custom"])["custom"].struct.field("log")
    assert log.explode().struct.field("n").sum() == 499_500


def test_numbers_and_dates_in_structs_have_statistics(events: Path) -> None:
    group = parquet.ParquetFile(events).metadata.row_group(0)
    held = {group.column(n).path_in_schema: group.column(n).statistics for n in range(group.num_columns)}
    assert held["up.fs"].min == datetime(2026, 1, 1, tzinfo=UTC)
    assert held["custom.log.list.element.n"].max == 999
    assert held["up.p"] is None or not held["up.p"].has_min_max
    assert group.column(0).compression == "ZSTD"


# Reading back.


def test_rows_are_counted_under_the_collections_name() -> None:
    assert NestedParquet().count(io.BytesIO(file_of({"a": 1}, {"a": 2}))) == Counter(c=2)
    assert NestedParquet().count(io.BytesIO(file_of())) == Counter()
    assert list(documents(io.BytesIO(file_of()))) == []


def test_a_file_of_another_kind_is_refused() -> None:
    other = io.BytesIO()
    parquet.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(IncompleteError, match="does not say of which collection"):
        NestedParquet().count(other)
    with pytest.raises(BadInputError, match="written with lossless false"):
        next(documents(io.BytesIO(file_of({"a": 1}, lossless=False))))


@pytest.mark.parametrize("cut", [1, 2, 7, 20, 400])
def test_a_file_cut_short_is_refused(cut: int) -> None:
    data = file_of({"_id": 1}, {"_id": 2})
    for read in (NestedParquet().count, lambda file: list(documents(file))):
        with pytest.raises(IncompleteError):
            read(io.BytesIO(data[:-cut]))


def test_a_damaged_page_is_refused() -> None:
    data = file_of(*({"_id": n, "v": {"s": f"text {n}"}, "l": [n, n + 1]} for n in range(300)))
    group = parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    for column in (group.column(number) for number in range(group.num_columns)):
        begin = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
        damaged = bytearray(data)
        damaged[begin + column.total_compressed_size - 1] ^= 1  # a page's, while the first bytes are its header's
        with pytest.raises(IncompleteError):
            NestedParquet().count(io.BytesIO(bytes(damaged)))


def test_row_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested_parquet, "ROW_GROUP_BYTES", 100_000)
    monkeypatch.setattr(nested_parquet, "_MORE_FOR_A_COLUMN", 0)
    monkeypatch.setattr(nested_parquet, "_WINDOW_BYTES", 10_000)
    given = [{"v": {"s": "x" * 900, "l": [n] * (n % 3)}, "m": n if n % 2 else "x"} for n in range(1000)]
    found = parquet.ParquetFile(io.BytesIO(file_of(*given)))
    rows = [found.metadata.row_group(number).num_rows for number in range(found.num_row_groups)]
    assert sum(rows) == 1000
    assert max(rows) < 130
    read = found.read()
    assert read["v"].to_pylist() == [item["v"] for item in given]
    assert [json_util.loads(text) for text in read["m"].to_pylist()] == [item["m"] for item in given]


def test_a_million_keys_and_a_hundred_levels() -> None:
    value: Any = 1
    for _ in range(100):
        value = {"a": [value]}
    given = [{"_id": n, "by": {f"{n}-{key}": key for key in range(100)}, "deep": value} for n in range(300)]
    data = file_of(*given)
    found = parquet.read_table(io.BytesIO(data))
    assert isinstance(found.schema.field("by").type, pa.JsonType)
    assert json_util.loads(found["by"][7].as_py()) == given[7]["by"]
    assert [json_util.loads(line) for line in documents(io.BytesIO(data))] == given
    assert parquet.ParquetFile(io.BytesIO(data)).metadata.num_columns == 4


def test_a_document_of_16_megabytes() -> None:
    big = {"_id": 1, "s": "x" * 13_000_000, "l": list(range(250_000))}
    found = table(big)
    assert found["l"][0].as_py() == big["l"]
    assert json_util.loads(found["_doc"][0].as_py()) == big
