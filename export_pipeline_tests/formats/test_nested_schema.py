"""The survey of one collection at every depth, and the types it leads to."""

from typing import Any

import bson
import pytest

from export_pipeline.formats.extended_json import EncodingError
from export_pipeline.formats.nested_schema import DEEPEST, LONGEST_NAME, MOST_PLACES, NestedSurvey, arrow_field, leaves
from export_pipeline.mongo.bson_stream import Piece, whole_documents
from export_pipeline_tests.formats.raw_bson import document
from export_pipeline_tests.formats.test_formats import piece


def surveyed(*documents: dict[str, Any]) -> NestedSurvey:
    survey = NestedSurvey()
    survey.see("c", piece(*documents))
    return survey


def type_of(*values: Any) -> str:
    """The type of a field that has these values, without the fields' metadata."""
    (place,) = surveyed(*({"v": value} for value in values)).root.fields.values()
    return str(arrow_field("v", place).type).replace("extension<arrow.json>", "json")


def paths(survey: NestedSurvey) -> dict[str, str]:
    return dict(leaf for name, place in survey.root.fields.items() for leaf in leaves(name.decode(), place))


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([{"a": 1}, {"a": 2, "b": "x"}], "struct<a: int32, b: string>"),
        ([{"a": {"b": [1.5]}}], "struct<a: struct<b: list<element: double>>>"),
        ([{"a": 1}, {}, None], "struct<a: int32>"),
        ([["x"], [], None], "list<element: string>"),
        ([[{"a": 1}], [{"b": True}, None]], "list<element: struct<a: int32, b: bool>>"),
        ([[[1], [2, bson.Int64(3)]]], "list<element: list<element: int64>>"),
        ([[1, 2.5, bson.Int64(2**53 - 1)]], "list<element: double>"),
        ([[2.5, bson.Int64(2**53)]], "list<element: json>"),
        ([{"at": bson.DatetimeMS(0)}], "struct<at: timestamp[ms, tz=UTC]>"),
        ([{"at": bson.DatetimeMS(2**62)}], "struct<at: json>"),
        ([{"id": bson.ObjectId(), "x": b"x", "d": bson.Decimal128("1")}], "struct<id: string, x: binary, d: json>"),
        # Where documents disagree, that place alone is JSON text.
        ([{"a": 1, "b": 1}, {"a": "x", "b": 2}], "struct<a: json, b: int32>"),
        ([[1, "x"], [2]], "list<element: json>"),
        ([{"a": 1}, [1]], "json"),
        ([{"a": {"b": 1}}, {"a": 1}, {"a": {"c": 1}}], "struct<a: json>"),
        ([[{"a": 1}, [1], {"b": 1}]], "list<element: json>"),
        # What Parquet has no type for.
        ([{}], "json"),
        ([[]], "list<element: string>"),
        ([[{}]], "list<element: json>"),
        ([None], "string"),
    ],
)
def test_a_place_has_the_type_that_holds_all_that_stands_there(values: list[Any], type_: str) -> None:
    assert type_of(*values) == type_
    assert type_of(*reversed(values)).count("json") == type_.count("json")


def test_fields_name_their_origin_types() -> None:
    (place,) = surveyed({"v": {"a": [1, 2.5]}}, {"v": None}).root.fields.values()
    outer = arrow_field("v", place)
    inner = outer.type.field("a")
    assert outer.metadata == {b"mongodb_types": b"null,object"}
    assert inner.metadata == {b"mongodb_types": b"array"}
    assert inner.type.field(0).metadata == {b"mongodb_types": b"double,int"}


@pytest.mark.parametrize(
    ("odd", "path", "type_"),
    [
        ({"o": {"n": "x"}}, "o.n", "json"),
        ({"o": {"n": bson.Int64(1)}}, "o.n", "int64"),
        ({"o": {"new": True}}, "o.new", "bool"),
        ({"o": {"at": bson.DatetimeMS(2**50)}}, "o.at", "json"),
        ({"l": [{"b": bson.Binary(b"x", 5)}]}, "l.list.element.b", "json"),
        ({"l": [{}, {}, {"b": b"x", "c": [1]}]}, "l.list.element.c.list.element", "int32"),
        ({"e": [None, 1]}, "e.list.element", "int32"),
        ({"e": [{"a": 1}]}, "e.list.element.a", "int32"),
        ({"l": {"b": 1}}, "l", "json"),
    ],
)
def test_what_one_of_many_documents_has_is_seen(odd: dict[str, Any], path: str, type_: str) -> None:
    usual = {"o": {"n": 1, "at": bson.DatetimeMS(0)}, "l": [{"b": b"x"}] * 3, "e": []}
    assert paths(surveyed(usual, usual)) | {path: type_} != paths(surveyed(usual, usual))
    assert paths(surveyed(*[usual] * 50, odd, *[usual] * 50))[path] == type_


def test_a_closer_look_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    look = NestedSurvey._look

    def counting(*arguments: Any) -> None:
        looked.append(1)
        look(*arguments)

    monkeypatch.setattr(NestedSurvey, "_look", counting)
    surveyed(*({"_id": n, "o": {"s": "x" * n}, "l": [{"n": n}] * (n % 3)} for n in range(100)))
    assert len(looked) < 10


def test_a_map_by_user_becomes_json_and_its_neighbours_stay() -> None:
    survey = NestedSurvey()
    for number in range(100):
        survey.see(
            "c",
            piece(
                *(
                    {"_id": n, "up": {"p": "x", "v": {"n": 1}}, "users": {f"{number}-{n}": {"n": 1, "m": 2}}}
                    for n in range(1000)
                )
            ),
        )
    assert paths(survey) == {"_id": "int32", "up.p": "string", "up.v.n": "int32", "users": "json"}
    assert not survey.left_out


def test_a_map_in_an_array_becomes_json() -> None:
    survey = surveyed(*({"v": [{"by": {f"k{n}": 1}, "n": 1}]} for n in range(MOST_PLACES + 1)))
    assert paths(survey) == {"v.list.element.by": "json", "v.list.element.n": "int32"}


def test_a_map_within_a_map_becomes_json_as_far_up_as_it_must() -> None:
    survey = surveyed(*({"v": {f"u{n}": {f"d{n}-{day}": 1 for day in range(3)}}} for n in range(5000)))
    assert paths(survey) == {"v": "json"}


def test_a_map_makes_room_for_fields_that_come_later() -> None:
    by_day = {f"d{n}": 1 for n in range(MOST_PLACES - 10)}
    survey = surveyed({"map": by_day}, *({f"n{n}": 1, "o": {f"m{n}": 1}} for n in range(400)))
    assert paths(survey)["map"] == "json"
    assert len(paths(survey)) == 801
    assert not survey.left_out


def test_where_documents_disagree_no_names_are_kept() -> None:
    survey = surveyed({"v": {"a": 1}}, {"v": 1})
    assert survey.root.fields[b"v"].fields == {}


def test_more_names_at_the_top_than_there_are_columns_are_left_out_and_said_to_be() -> None:
    survey = surveyed({"up": {"p": 1, "q": 2}}, *({f"n{n}": 1} for n in range(3 * MOST_PLACES)), {"up": {"p": 2}})
    assert len(survey.root.fields) == MOST_PLACES - 2
    assert paths(survey)["up.p"] == "int32"
    assert survey.left_out


def test_the_places_stay_few_whatever_comes() -> None:
    survey = NestedSurvey()
    for number in range(30):
        survey.see("c", piece(*({f"a{number}": {f"b{n}": {f"c{n % 7}": [{f"d{n}": 1}]}}} for n in range(200))))
    assert len(paths(survey)) <= MOST_PLACES


def test_what_is_nested_too_deep_is_json() -> None:
    value: Any = 1
    for _ in range(100):
        value = {"a": value}
    (path,) = paths(surveyed({"v": value}))
    assert path == "v" + ".a" * DEEPEST
    items: Any = 1
    for _ in range(100):
        items = [items]
    assert paths(surveyed({"v": items})) == {"v" + ".list.element" * DEEPEST: "json"}


@pytest.mark.parametrize("name", ["x" * (LONGEST_NAME + 1), "é" * (LONGEST_NAME // 2 + 1)])
def test_names_too_long_are_data(name: str) -> None:
    survey = surveyed({"v": {"a": 1, name: 1}, "w": 1})
    assert paths(survey) == {"v": "json", "w": "int32"}
    assert surveyed({name: 1}).left_out


def test_names_that_are_no_text_have_no_column() -> None:
    raw = document((0x03, b"v", document((0x10, b"\xed\xa0\x80", b"\1\0\0\0"))), (0x10, b"\xed\xa0\x80", b"\1\0\0\0"))
    survey = NestedSurvey()
    survey.see("c", Piece(raw, whole_documents(raw)[0]))
    assert paths(survey) == {"v": "json"}
    assert survey.left_out


def test_a_second_collection_is_refused() -> None:
    survey = surveyed({"a": 1})
    with pytest.raises(ValueError, match="a nested Parquet file holds one collection: 'c' is in it, so 'd' cannot be"):
        survey.see("d", piece({"a": 1}))


def test_damage_is_named() -> None:
    raw = bytearray(bson.encode({"outer": {"a": "text"}}))
    raw[raw.index(b"text") - 4] = 99
    with pytest.raises(EncodingError, match=r"^collection 'c': field \"outer\" is not valid BSON"):
        NestedSurvey().see("c", Piece(bytes(raw), whole_documents(bytes(raw))[0]))
