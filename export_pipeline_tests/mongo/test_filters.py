"""Filters from outside: what is taken, as what, and that nothing else ever comes through."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.decimal128 import Decimal128
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.errors import BadInputError
from export_pipeline.mongo.filters import OPERATORS, SELECTING_OPERATORS, checked_filter, checked_path, parse_json

SECRET = "secret-value"

# What is taken


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"e": "purchase"}, {"e": {"$eq": "purchase"}}),
        ({"e": None}, {"e": {"$eq": None}}),
        ({"e": True}, {"e": {"$eq": True}}),
        ({"e": ""}, {"e": {"$eq": ""}}),
        ({"a.b.c": 1, "d": 0.5}, {"a.b.c": {"$eq": 1}, "d": {"$eq": 0.5}}),
        ({"ключ": "日本"}, {"ключ": {"$eq": "日本"}}),
        ({"c": {"$gte": 2, "$lt": 9}}, {"c": {"$gte": 2, "$lt": 9}}),
        ({"c": {"$gt": 2, "$lte": 9, "$ne": 5}}, {"c": {"$gt": 2, "$lte": 9, "$ne": 5}}),
        ({"c": {"$in": [1, "a", None]}}, {"c": {"$in": [1, "a", None]}}),
        ({"c": {"$nin": ["$where"]}}, {"c": {"$nin": ["$where"]}}),
        ({"c": {"$exists": False}}, {"c": {"$exists": False}}),
        ({"c": "$where"}, {"c": {"$eq": "$where"}}),
        ({"c": "function () { return true }"}, {"c": {"$eq": "function () { return true }"}}),
        ({"c": 2**63 - 1}, {"c": {"$eq": 2**63 - 1}}),
        ({"c": -(2**63)}, {"c": {"$eq": -(2**63)}}),
    ],
)
def test_conditions_become_operators_with_values(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert checked_filter(given, "where") == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"$oid": "0123456789abcdef01234567"}, ObjectId("0123456789abcdef01234567")),
        ({"$date": "2026-01-31T12:00:00Z"}, datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ({"$date": "2026-01-31T12:00:00+02:00"}, datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ({"$date": 1_000}, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ({"$date": {"$numberLong": "-1000"}}, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ({"$numberInt": "7"}, 7),
        ({"$numberLong": "7"}, Int64(7)),
        ({"$numberDouble": "0.5"}, 0.5),
        ({"$numberDecimal": "0.10"}, Decimal128("0.10")),
    ],
)
def test_extended_json_gives_the_types_that_json_has_not(given: dict[str, Any], expected: object) -> None:
    for condition in (given, {"$eq": given}):
        (value,) = checked_filter({"f": condition}, "where")["f"].values()
        assert bson.encode({"v": value}) == bson.encode({"v": expected})
    in_list = checked_filter({"f": {"$in": [given, 1]}}, "where")
    assert bson.encode(in_list) == bson.encode({"f": {"$in": [expected, 1]}})


def test_what_was_given_is_not_changed() -> None:
    given = {"f": {"$in": [{"$oid": "0123456789abcdef01234567"}]}}
    checked_filter(given, "where")
    assert given == {"f": {"$in": [{"$oid": "0123456789abcdef01234567"}]}}


def test_any_mapping_will_do() -> None:
    class Given(Mapping[str, object]):
        def __getitem__(self, key: str) -> object:
            return {"f": 1}[key]

        def __iter__(self) -> Any:
            return iter(["f"])

        def __len__(self) -> int:
            return 1

    assert checked_filter(Given(), "where") == {"f": {"$eq": 1}}


# What is refused


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, 'where: expected an object such as {"field": "value"}, not NoneType'),
        ([], 'where: expected an object such as {"field": "value"}, not list'),
        ("{}", 'where: expected an object such as {"field": "value"}, not str'),
        ({f"f{number}": 1 for number in range(51)}, "where: at most 50 conditions are allowed, not 51"),
        ({"$where": SECRET}, "where: the operator $where is not allowed; name a field"),
        ({"$or": [{"uid": SECRET}]}, "where: the operator $or is not allowed; name a field"),
        ({f"${SECRET}": 1}, "where: the operator given is not allowed; name a field"),
        ({7: 1}, "where: a field's name is text, not int"),
        ({"": 1}, "where: a field's path is names with dots between them, such as 'custom.plan'"),
        ({"a..b": 1}, "where: a field's path is names with dots"),
        ({"a.$b": 1}, "where: a field's path is names with dots"),
        ({"a\0": 1}, "where: a field's path is names with dots"),
        ({"a\n": 1}, "where: a field's path is names with dots"),
        ({"x" * 201: 1}, "where: a field's path has at most 200 characters"),
        ({"f": {}}, "where, field f: an empty object is not a condition"),
        ({"f": {"$regex": SECRET}}, "where, field f: the operator $regex is not allowed; allowed are $eq, $ne, $gt,"),
        ({"f": {"$not": {"$eq": 1}}}, "where, field f: the operator $not is not allowed"),
        ({"f": {"$eq": 1, "$where": SECRET}}, "where, field f: the operator $where is not allowed"),
        ({"f": {f"${SECRET}": 1}}, "where, field f: the operator given is not allowed"),
        ({"f": {SECRET: 1}}, "where, field f: the operator of that name is not allowed"),
        ({"f": {7: 1}}, "where, field f: the operator of that name is not allowed"),
        ({f"{SECRET}@example.org": {"$gt": [1]}}, "where, field of that name: a value is text"),
        ({"f": {"$in": SECRET}}, "where, field f: $in takes a list of 1 to 1000 values"),
        ({"f": {"$in": []}}, "where, field f: $in takes a list of 1 to 1000 values"),
        ({"f": {"$nin": [1] * 1001}}, "where, field f: $nin takes a list of 1 to 1000 values"),
        ({"f": {"$in": [[1]]}}, "where, field f: a value is text, a number, true, false or null, not list"),
        ({"f": {"$in": [{"$regex": SECRET}]}}, "where, field f: a value must not be an object, except $date,"),
        ({"f": {"$exists": 1}}, "where, field f: $exists takes true or false"),
        ({"f": {"$exists": None}}, "where, field f: $exists takes true or false"),
        ({"f": [SECRET]}, "where, field f: a value is text, a number, true, false or null, not list"),
        ({"f": b"secret-value"}, "where, field f: a value is text, a number, true, false or null, not bytes"),
        ({"f": {"$eq": {"a": SECRET}}}, "where, field f: a value must not be an object, except $date,"),
        ({"f": 2**63}, "where, field f: a whole number has at most 64 bits"),
        ({"f": -(2**63) - 1}, "where, field f: a whole number has at most 64 bits"),
        ({"f": math.nan}, "where, field f: a number must be finite"),
        ({"f": -math.inf}, "where, field f: a number must be finite"),
        ({"f": "x" * 4097}, "where, field f: text is valid Unicode of at most 4096 characters"),
        ({"f": SECRET + "\ud800"}, "where, field f: text is valid Unicode of at most 4096 characters"),
        ({"f": {"$in": ["x" * 4000] * 300}}, "where: all conditions together may have at most 1 MB"),
    ],
)
def test_anything_else_is_refused_by_name_and_without_a_value(given: Any, reason: str) -> None:
    with pytest.raises(BadInputError) as raised:
        checked_filter(given, "where")
    assert str(raised.value).startswith(reason)
    assert SECRET not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("kind", "values"),
    {
        "$oid": [None, 7, "", SECRET, "z" * 24, "\ud800", ["a"], {"a": 1}, {"$oid": "0" * 24}],
        "$date": [None, True, 0.5, SECRET, "2026", 2**63, -(2**60), [1], {}, {"$numberLong": SECRET}, {"$date": 1}],
        "$numberInt": [None, 7, SECRET, "", "0.5", "9" * 30, "9" * 5000, {}],
        "$numberLong": [None, 7, SECRET, "", str(2**63), {"$numberLong": "1"}],
        "$numberDouble": [None, 0.5, SECRET, "NaN", "Infinity", "-Infinity", "9" * 400],
        "$numberDecimal": [None, 1, SECRET, "1e99999", "\ud800"],
    }.items(),
)
def test_extended_json_that_holds_no_value_of_its_kind_is_refused(kind: str, values: list[Any]) -> None:
    """The driver, left to itself, makes up an ObjectId for null, and passes on numbers that it cannot send."""
    for value in values:
        for condition in ({kind: value}, {"$eq": {kind: value}}, {"$in": [{kind: value}]}):
            with pytest.raises(BadInputError) as raised:
                checked_filter({"f": condition}, "where")
            assert str(raised.value).startswith("where, field f: ")
            assert SECRET not in str(raised.value)


@pytest.mark.parametrize("kind", ["$code", "$regularExpression", "$binary", "$ref", "$symbol", "$undefined", "$uuid"])
def test_other_types_of_extended_json_are_refused(kind: str) -> None:
    for condition in ({kind: SECRET}, {"$eq": {kind: SECRET}}, {"$in": [{kind: SECRET}]}):
        with pytest.raises(BadInputError, match=r"is not allowed|must not be an object"):
            checked_filter({"f": condition}, "where")


def test_a_wrapper_with_company_is_no_value() -> None:
    with pytest.raises(BadInputError, match=r"operator \$oid is not allowed"):
        checked_filter({"f": {"$oid": "0" * 24, "$where": "1"}}, "where")


def test_the_caller_chooses_among_the_operators() -> None:
    checked_filter({"f": {"$eq": 1}, "g": {"$in": [1]}, "h": 1}, "person", SELECTING_OPERATORS)
    for operator in set(OPERATORS) - set(SELECTING_OPERATORS):
        with pytest.raises(BadInputError, match=rf"operator \{operator} is not allowed; allowed are \$eq, \$in"):
            checked_filter({"f": {operator: True}}, "person", SELECTING_OPERATORS)


@pytest.mark.parametrize("path", ["a", "a.b", "_id", "a b", "a-b", "0", "a.0", "日本", "x" * 200, "a$", "a.b$c"])
def test_a_path_names_a_field(path: str) -> None:
    assert checked_path(path, "sort") == path


NO_PATHS = ["", ".", "a.", ".a", "a..b", "$a", "a.$", "a.$b", "a\0b", "a\u202eb", "a\ud800", "a\tb", "x" * 201, 7, None]


@pytest.mark.parametrize("path", NO_PATHS)
def test_a_path_that_names_none_is_refused(path: Any) -> None:
    with pytest.raises(BadInputError, match=r"^sort: "):
        checked_path(path, "sort")


# JSON


def test_json_is_read() -> None:
    assert parse_json('{"a": [1, {"b": null}]}', "--where") == {"a": [1, {"b": None}]}
    assert parse_json('{"a": {"x": 1}, "b": {"x": 1}}', "--where") == {"a": {"x": 1}, "b": {"x": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "{'a': 1}",
        '{"a": 1} {"b": 1}',
        '{"a": undefined}',
        SECRET,
        f'{{"a": "{SECRET}}}',
        "[" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        "\ufeff{}",
        '{"a": "\n"}',
    ],
    ids=lambda text: text[:20],
)
def test_what_is_not_json_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(BadInputError) as raised:
        parse_json(text, "--where")
    assert str(raised.value) == '--where: this is not JSON; it looks like {"field": "value"}'
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("text", [f'{{"a": 1, "a": "{SECRET}"}}', '{"f": {"$gt": 1, "$gt": 2}}', '[{"a": 1, "a": 1}]'])
def test_a_field_that_is_given_twice_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match=r"^--where: a field is given twice$"):
        parse_json(text, "--where")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_numbers_that_are_none_do_not_get_past_the_filter(number: str) -> None:
    with pytest.raises(BadInputError, match="a number must be finite"):
        checked_filter(parse_json(f'{{"f": {number}}}', "--where"), "--where")


def test_a_million_values_are_refused_at_once() -> None:
    million = "[" + "1," * 10**6 + "1]"
    for text in (f'{{"f": {{"$in": {million}}}}}', f'{{"f": {million}}}', million):
        with pytest.raises(BadInputError) as raised:
            checked_filter(parse_json(text, "--where"), "--where")
        assert len(str(raised.value)) < 200


# Whatever comes in

_names = st.one_of(
    st.text(max_size=6),
    st.sampled_from([*OPERATORS, "$where", "$function", "$expr", "$or", "$and", "$regex", "$not", "$code", "a", "a.b"]),
    st.sampled_from(["$oid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal"]),
)
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["0" * 24, "2026-01-31T12:00:00Z", "9" * 30, "NaN", "1e999", "$where"]),
)
_any_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3), max_leaves=10
)
_plausible = st.dictionaries(
    st.sampled_from(["a", "a.b", "$or"]) | _names,
    _any_json | st.dictionaries(st.sampled_from(OPERATORS), _any_json | st.lists(_scalars, max_size=3), max_size=3),
    max_size=3,
)


def operators_in(value: object) -> set[str]:
    """All keys that MongoDB would take for operators, however deep."""
    if isinstance(value, Mapping):
        own = {name for name in value if isinstance(name, str) and name.startswith("$")}
        return own.union(*(operators_in(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(operators_in(inner) for inner in value))
    return set()


@given(_any_json | _plausible, st.sampled_from([OPERATORS, SELECTING_OPERATORS]))
def test_whatever_comes_in_only_allowed_operators_come_out(given: object, operators: tuple[str, ...]) -> None:
    try:
        checked = checked_filter(given, "where", operators)
    except BadInputError:
        return
    assert operators_in(checked) <= set(operators)
    assert not any(path.startswith("$") for path in checked)
    for condition in checked.values():
        assert condition, "a condition is never empty: it would hold for everything"
        for values in condition.values():
            for value in values if isinstance(values, list) else [values]:
                assert isinstance(value, str | int | float | bool | datetime | ObjectId | Decimal128 | None)
    assert len(bson.encode(checked)) < 2**20, "it can be sent"


@given(_plausible)
def test_no_condition_is_lost_on_the_way(given: dict[str, Any]) -> None:
    try:
        checked = checked_filter(given, "where")
    except BadInputError:
        return
    assert checked.keys() == given.keys()
    for path, condition in given.items():
        if isinstance(condition, dict) and not condition.keys() <= {"$oid", "$date"} and "$eq" in condition:
            assert checked[path].keys() == condition.keys()


@given(st.text() | _any_json.map(json.dumps) | st.text(st.sampled_from('{}[]":,$a1\\u0 ')))
def test_whatever_the_text_is_it_is_json_or_bad_input(text: str) -> None:
    try:
        parsed = parse_json(text, "--person")
    except BadInputError as error:
        assert str(error).startswith("--person: ")  # noqa: PT017  # it may also be fine
        return
    with suppress(BadInputError):
        checked_filter(parsed, "--person")
