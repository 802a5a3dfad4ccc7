"""What was written reads back to the same bytes."""

from struct import pack
from typing import Any

import bson
import pytest
from hypothesis import given, settings

from export_pipeline.formats.extended_json import encode_batch
from export_pipeline.formats.extended_json_reader import DecodingError, decode_line
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.raw_bson import document, string
from export_pipeline_tests.formats.test_extended_json import corpus, needs_corpus


def line(raw: bytes) -> bytes:
    return encode_batch(raw, "events", "canonical", b"\n").data


@needs_corpus
@pytest.mark.parametrize("case", corpus("valid"))
def test_the_corpus_comes_back_byte_for_byte(case: dict[str, Any]) -> None:
    raw = bytes.fromhex(case["canonical_bson"])
    if case.get("lossy"):
        assert line(decode_line(line(raw)).document) == line(raw)
    else:
        assert decode_line(line(raw)) == ("events", raw)


def test_lines_of_an_array_are_read_too() -> None:
    raw = bson.encode({"a": 1})
    assert decode_line(line(raw) + b",\n").document == raw


def test_the_tag_is_taken_off_and_names_like_it_get_their_own_back() -> None:
    raw = bson.encode({"_col": 1, "__col": {"_col": 2}})
    assert decode_line(line(raw)) == ("events", raw)


def test_a_document_that_only_looks_like_a_wrapper_stays_a_document() -> None:
    raw = bson.encode({"a": {"$oid": "not an id"}, "b": {"$date": {}}, "c": {"$ref": "x", "$id": 1, "$db": None}})
    assert decode_line(line(raw)).document == raw


def test_relaxed_lines_are_read_with_the_smallest_integers() -> None:
    raw = bson.encode({"n": bson.Int64(5), "at": bson.DatetimeMS(1), "x": 1.5})
    relaxed = encode_batch(raw, "events", "relaxed", b"\n").data
    assert decode_line(relaxed).document == bson.encode({"n": 5, "at": bson.DatetimeMS(1), "x": 1.5})


@settings(deadline=None)
@given(raw_bson.documents())
def test_writing_what_was_read_gives_the_same_line(raw: bytes) -> None:
    assert line(decode_line(line(raw)).document) == line(raw)


@settings(deadline=None)
@given(raw_bson.documents(unusual=False))
def test_any_usual_document_comes_back_byte_for_byte(raw: bytes) -> None:
    assert decode_line(line(raw)).document == raw


def test_repeated_names_and_deprecated_types_come_back() -> None:
    raw = document(
        (0x10, b"a", pack("<i", 1)),
        (0x10, b"a", pack("<i", 2)),
        (0x06, b"u", b""),
        (0x0C, b"p", string(b"db.c") + bytes(12)),
        (0x0E, b"s", string(b"symbol")),
        (0x0F, b"c", raw_bson.code_with_scope(b"f()", document((0x06, b"u", b""), (0x06, b"u", b"")))),
        (0x02, b"l", string(b"\xed\xa0\x80")),
    )
    assert decode_line(line(raw)).document == raw


@pytest.mark.parametrize(
    "broken",
    [b"", b"[", b"[]", b"{}", b'{"a":1,"_col":"events"}', b'{"_col":5}', b'{"_col":"events","n":99999999999999999999}'],
)
def test_what_is_not_a_tagged_document_is_refused(broken: bytes) -> None:
    with pytest.raises(DecodingError):
        decode_line(broken)
