"""Columns of documents that are like a shape, and what only seems to be like it."""

from typing import Any

import bson
import pytest

from export_pipeline.formats.bson_form import Form
from export_pipeline.formats.bson_shapes import DiffersError
from export_pipeline.formats.parquet_schema import Column, ColumnType
from export_pipeline.formats.parquet_shapes import ShapeColumns
from export_pipeline_tests.formats.raw_bson import document, string

USUAL: list[dict[str, Any]] = [
    {"_id": bson.ObjectId("0123456789abcdef01234567"), "d": 1.5, "at": bson.DatetimeMS(5), "on": True, "s": "a"},
    {"_id": bson.ObjectId("0123456789abcdef01234567"), "d": bson.Int64(5), "s": "b"},
    {"_id": "text", "d": None, "o": {"deep": [1]}},
]
TYPES: dict[str, ColumnType] = {
    "_id": "text",
    "d": "double",
    "at": "timestamp",
    "on": "bool",
    "s": "string",
    "o": "json",
}


def shape_columns() -> ShapeColumns:
    form = Form("canonical", None)
    for stored in USUAL:
        form.learn(bson.encode(stored), 0)
    columns = [Column(name.encode(), name, type_, frozenset()) for name, type_ in TYPES.items()]
    return ShapeColumns(form.shape(), columns, lossless=True)


def columns(*documents: bytes) -> dict[str, Any]:
    made, data = shape_columns(), b"".join(documents)
    fitting = made.fitting(data, 0, len(data))
    assert len(fitting) == len(documents)
    return made.columns(fitting)


def test_columns_of_documents_that_fit() -> None:
    made = columns(*map(bson.encode, USUAL))
    assert {label: list(values) for label, values in made.items() if label != "_doc"} == {
        "_id": [b"0123456789abcdef01234567", b"0123456789abcdef01234567", b"text"],
        "d": [1.5, 5, None],
        "at": [5, None, None],
        "on": [1, None, None],
        "s": [b"a", b"b", None],
        "o": [None, None, b'{"deep":[1]}'],
    }
    assert made["_doc"][2] == b'{"_id":"text","d":null,"o":{"deep":[{"$numberInt":"1"}]}}'


def test_the_first_that_does_not_fit_ends_it() -> None:
    one, other = bson.encode(USUAL[0]), bson.encode({"_id": 1})
    data = one * 3 + other + one
    assert len(shape_columns().fitting(data, 0, len(data))) == 3
    assert len(shape_columns().fitting(data, len(one) * 3, len(data))) == 0


@pytest.mark.parametrize(
    "stored",
    [
        bson.encode({"d": bson.Int64(2**53)}),
        bson.encode(USUAL[0] | {"at": bson.DatetimeMS(253_402_300_800_000)}),
        bson.encode(USUAL[0]).replace(b"\x08on\0\1", b"\x08on\0\2"),
        document((0x02, b"s", string(b"\xed\xa0\x80"))),
        document(
            (0x12, b"d", bytes(8)),
            (0x01, b"d", bytes(8)),
            (0x09, b"at", bytes(8)),
            (0x08, b"on", b"\0"),
            (0x02, b"s", string(b"")),
        ),
        document((0x02, b"s", b"\7\0\0\0a\0")),
    ],
    ids=["a long that no double holds", "the year 10000", "a boolean 2", "a surrogate", "two fields", "a length"],
)
def test_what_a_column_cannot_hold_differs(stored: bytes) -> None:
    with pytest.raises(DiffersError):
        columns(bson.encode(USUAL[1]), stored)
