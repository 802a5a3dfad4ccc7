"""The survey of fields, and the types it leads to."""

from typing import Any

import bson
import pytest

from export_pipeline.formats import parquet_schema
from export_pipeline.formats.bson_fields import LARGE_LONG, ODD_DATE, fields
from export_pipeline.formats.extended_json import EncodingError
from export_pipeline.formats.parquet_schema import MOST_COLUMNS, ParquetSurvey, column_type
from export_pipeline.mongo.bson_stream import Piece, whole_documents
from export_pipeline_tests.formats.test_formats import piece


def surveyed(*documents: dict[str, Any]) -> ParquetSurvey:
    survey = ParquetSurvey()
    survey.see("c", piece(*documents))
    return survey


def types(survey: ParquetSurvey) -> dict[str, str]:
    return {column.label: column.type_ for column in survey.columns()}


@pytest.mark.parametrize(
    ("kinds", "type_"),
    [
        ({"int"}, "int32"),
        ({"long"}, "int64"),
        ({"int", "long", LARGE_LONG}, "int64"),
        ({"double"}, "double"),
        ({"int", "double"}, "double"),
        ({"int", "long", "double", "null"}, "double"),
        ({LARGE_LONG, "double"}, "json"),
        ({"bool"}, "bool"),
        ({"bool", "int"}, "json"),
        ({"date"}, "timestamp"),
        ({"date", ODD_DATE}, "json"),
        ({"string"}, "string"),
        ({"string", "objectId"}, "json"),
        ({"objectId"}, "objectid"),
        ({"binData"}, "binary"),
        ({"binData of a subtype"}, "json"),
        ({"decimal"}, "json"),
        ({"undefined"}, "json"),
        ({"object"}, "json"),
        ({"null"}, "string"),
    ],
)
def test_a_type_holds_all_that_a_field_holds(kinds: set[str], type_: str) -> None:
    assert column_type(kinds) == type_


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (bson.Int64(2**53 - 1), "long"),
        (bson.Int64(2**53), LARGE_LONG),
        (bson.Int64(-(2**53)), "long"),
        (bson.Int64(-(2**53) - 1), LARGE_LONG),
        (bson.DatetimeMS(253_402_300_799_999), "date"),
        (bson.DatetimeMS(253_402_300_800_000), ODD_DATE),
        (bson.DatetimeMS(-62_135_596_800_000), "date"),
        (bson.DatetimeMS(-62_135_596_800_001), ODD_DATE),
    ],
)
def test_limits_are_seen_among_many_documents_that_are_alike(value: object, kind: str) -> None:
    usual = bson.Int64(1) if isinstance(value, bson.Int64) else bson.DatetimeMS(1)
    survey = surveyed(*[{"a": 1, "v": usual}] * 1000, {"a": 2, "v": value}, *[{"a": 1, "v": usual}] * 1000)
    found = next(column for column in survey.columns() if column.label == "v")
    assert found.kinds == {"long" if isinstance(value, bson.Int64) else "date", kind}


def test_what_only_one_of_many_documents_has_is_seen() -> None:
    usual = {"_id": 1, "s": "text", "n": 1.5, "o": {"deep": [1]}, "l": [1, 2], "b": b"x", "t": True}
    odd: list[dict[str, Any]] = [
        {"s": 1},
        {"l": {"a": 1}},
        {"b": bson.Binary(b"x", 5)},
        {"t": None},
        {"new": 1},
        {"n": 2, "_id": 7},
    ]
    survey = ParquetSurvey()
    for document in odd:
        survey.see("c", piece(*[usual] * 700))
        survey.see("c", piece(document))
    survey.see("c", piece(*[usual] * 700))
    kinds = {column.label: set(column.kinds) for column in survey.columns()}
    assert kinds == {
        "_id": {"int"},
        "s": {"string", "int"},
        "n": {"double", "int"},
        "o": {"object"},
        "l": {"array", "object"},
        "b": {"binData", "binData of a subtype"},
        "t": {"bool", "null"},
        "new": {"int"},
    }


def test_names_that_are_data_do_not_fill_the_memory() -> None:
    survey = ParquetSurvey()
    for number in range(100):
        survey.see("c", piece(*({f"{number}-{n}": 1, "x" * 201: n} for n in range(1000))))
    columns = survey.columns()
    assert len(columns) == MOST_COLUMNS
    assert survey.left_out
    assert len(survey.collections["c"].order) <= MOST_COLUMNS


def test_damage_is_named() -> None:
    raw = bytearray(bson.encode({"a": "text"}))
    raw[7] = 99
    with pytest.raises(EncodingError, match=r"^collection 'c': field \"a\" is not valid BSON"):
        ParquetSurvey().see("c", Piece(bytes(raw), whole_documents(bytes(raw))[0]))


def test_most_documents_are_skimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counting(*arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        return fields(*arguments)

    monkeypatch.setattr(parquet_schema, "fields", counting)
    documents = [
        {"_id": n, "o": {str(n): n}, "l": ["x"] * (n % 5)} | ({"s": "x"} if n % 3 else {}) for n in range(5000)
    ]
    assert types(surveyed(*documents)) == {"_id": "int32", "o": "json", "l": "json", "s": "string"}
    assert looked < parquet_schema.WORTH_A_PATTERN * 1.2
