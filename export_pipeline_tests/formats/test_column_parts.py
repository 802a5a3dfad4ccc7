"""Documents taken apart by one pattern, and those that only look as if they could be."""

from typing import Any

import bson
import pytest

from export_pipeline.formats import columns
from export_pipeline.formats.column_parts import MOST_FIELDS, KnownFields, Layout, Part
from export_pipeline.formats.registry import FORMATS
from export_pipeline.mongo.bson_stream import whole_documents
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.test_csv_zip import raw, table
from export_pipeline_tests.formats.test_formats import written


def layout(*documents: dict[str, Any], names: str = "abcd", dotted: bool = False) -> Layout:
    """A layout learned from documents, with a column for each letter, and for ``a.b`` and the like."""
    known = KnownFields(dotted=dotted)
    for document in documents:
        data = bson.encode(document)
        known.learn(data, 0, len(data))
    paths = [name.encode() for name in names] + [f"{name}.{inner}".encode() for name in names for inner in names]
    return Layout(known.laid_out(lambda path: {name: at for at, name in enumerate(paths, 1)}.get(b".".join(path))))


def taken(of: Layout, *documents: dict[str, Any] | bytes) -> tuple[list[Part], list[int]]:
    """The parts, and which documents were missed."""
    data = b"".join(each if isinstance(each, bytes) else bson.encode(each) for each in documents)
    found = of.take(data, [*whole_documents(data)[0], len(data)])
    return [part._replace(values=list(part.values)) for part in found.parts()], found.missed


def test_values_of_a_type_are_together() -> None:
    of = layout({"a": "x", "b": 1}, {"a": 2, "b": 3})
    assert taken(of, {"a": "one", "b": 1}, {"a": "", "b": 2}) == (
        [Part(1, 2, [b"one", b""], None), Part(2, 0x10, [b"\1\0\0\0", b"\2\0\0\0"], None)],
        [],
    )
    assert taken(of, {"a": "one"}, {"a": 2}, {}) == (
        [Part(1, 0x10, [b"\2\0\0\0"], [1]), Part(1, 2, [b"one"], [0])],
        [],
    )


def test_values_whose_length_must_be_read_may_be_of_any_type() -> None:
    of = layout({"a": [1], "b": 1})
    documents: list[dict[str, Any]] = [{"a": {"x": 1}}, {"a": "text"}, {"b": 1}, {"a": {}}]
    assert taken(of, *documents) == (
        [
            Part(1, 2, [b"text"], [1]),
            Part(1, 3, [bson.encode({"x": 1}), bson.encode({})], [0, 3]),
            Part(2, 0x10, [b"\1\0\0\0"], [2]),
        ],
        [],
    )


@pytest.mark.parametrize(
    "document",
    [
        {"b": 1, "a": "x"},  # in another order
        {"a": "x", "b": 1, "c": 1},  # with a field that is unknown
        {"a": "x", "b": "y"},  # of another type
        raw_bson.document((2, b"a", raw_bson.string(b"x")), (2, b"a", raw_bson.string(b"x"))),
        raw_bson.document((2, b"a", b"\0\0\0\0")),
        raw_bson.document((2, b"a", b"\xff\xff\xff\x7f")),
    ],
)
def test_documents_of_another_form_are_missed(document: dict[str, Any] | bytes) -> None:
    of = layout({"a": "x", "b": 1})
    parts, missed = taken(of, {"a": "1", "b": 1}, document, {"a": "3", "b": 3})
    assert missed == [1]
    assert parts[0] == Part(1, 2, [b"1", b"3"], None)


def test_fields_of_embedded_documents_have_their_places() -> None:
    of = layout({"a": {"b": 1, "c": "x"}, "b": 1}, {"a": {}}, dotted=True)
    known: list[dict[str, Any]] = [{"b": 1}, {"a": {"c": "y"}, "b": 2}, {"a": {}}, {"a": {"b": 3}}]
    parts, missed = taken(of, *known, {"a": {"d": 1}}, {"b": {"a": 1}})
    assert missed == [4, 5]
    assert parts == [
        Part(1, 3, [bson.encode({})], [2]),
        Part(6, 0x10, [b"\3\0\0\0"], [3]),
        Part(7, 2, [b"y"], [1]),
        Part(2, 0x10, [b"\1\0\0\0", b"\2\0\0\0"], [0, 1]),
    ]


def test_what_is_remembered_is_bounded() -> None:
    known = KnownFields(dotted=True)
    for number in range(50):
        data = bson.encode({f"{number} {n}": {f"{m}": 1 for m in range(10)} for n in range(50)} | {"x" * 300: 1})
        known.learn(data, 0, len(data))
    laid_out = known.laid_out(lambda _: 1) + known.laid_out(lambda path: hash(path))
    assert sum(1 + len(field.inner or ()) for field in laid_out) <= 2 * MOST_FIELDS
    assert all(len(field.name) < 300 for field in laid_out)


# Strings that hold what looks like fields

USUAL = raw_bson.document((2, b"a", raw_bson.string(b"x")), (2, b"b", raw_bson.string(b"y")))
MIMIC = raw_bson.document((2, b"a", raw_bson.string(b"x\0\2b\0\2\0\0\0y")))
HIDING = raw_bson.document((2, b"a", raw_bson.string(b"x\0\2b")), (0x0A, b"evil", b""))


def test_a_string_that_looks_like_fields_is_one() -> None:
    of = layout({"a": "x", "b": "y"})
    for hostile in (MIMIC, HIDING):
        parts, missed = taken(of, USUAL, hostile, USUAL)
        assert (parts, missed) == ([], [0, 1, 2])  # none of them is believed


def test_a_string_hides_no_field_from_the_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "WORTH_A_LAYOUT", 8)
    header, *lines = table(written(FORMATS["csv"], {"c": [raw(*[USUAL] * 20, MIMIC, HIDING)]}))
    assert header == ["_col", "_id", "a", "b", "evil"]
    assert lines[19:] == [
        ["c", "", "x", "y", ""],
        ["c", "", "x\0\2b\0\2\0\0\0y", "", ""],
        ["c", "", "x\0\2b", "", ""],
    ]
