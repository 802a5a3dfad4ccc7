"""The user key's string is found as a decoder would find it, or left to the decoder."""

from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.slices.user_key import string_at

BEFORE: list[Any] = [
    None,
    True,
    7,
    bson.Int64(7),
    0.5,
    "text",
    "",
    b"\0\1",
    [1, {"uid": "inner"}],
    {"uid": "inner"},
    bson.ObjectId(),
    bson.Regex("a", "i"),
    bson.Timestamp(1, 2),
    bson.Decimal128("1"),
    bson.Code("f", {"uid": "inner"}),
    bson.DBRef("c", 1),
    bson.MinKey(),
]


@given(st.lists(st.sampled_from(BEFORE), max_size=5), st.text(), st.sampled_from(BEFORE))
def test_the_string_is_found_behind_anything(before: list[Any], uid: str, after: Any) -> None:
    fields = {f"f{number}": value for number, value in enumerate(before)}
    document = bson.encode({**fields, "uid": uid, "after": after})
    assert string_at(document, b"uid") == uid.encode()


@pytest.mark.parametrize("value", [value for value in BEFORE if not isinstance(value, str)])
def test_what_is_no_string_is_left_to_the_decoder(value: Any) -> None:
    assert string_at(bson.encode({"uid": value}), b"uid") is None


@pytest.mark.parametrize("document", [{}, {"other": "a"}, {"user": {"uid": "a"}}, {"uid2": "a"}, {"ui": "a"}])
def test_a_field_that_is_not_at_the_top_is_not_found(document: dict[str, Any]) -> None:
    assert string_at(bson.encode(document), b"uid") is None


def test_of_two_fields_of_one_name_the_first_counts_as_it_does_for_the_server() -> None:
    first, second = (bson.encode({"uid": uid})[4:-1] for uid in "ab")
    body = first + second + b"\0"
    assert string_at((len(body) + 4).to_bytes(4, "little") + body, b"uid") == b"a"


@given(st.data())
def test_damage_is_left_to_the_decoder_or_does_not_matter(data: st.DataObject) -> None:
    document = bytearray(bson.encode({"_id": 1, "name": "somebody", "uid": "a"}))
    place = data.draw(st.integers(4, len(document) - 1))
    document[place] = data.draw(st.integers(0, 255))
    found = string_at(bytes(document), b"uid")
    assert found is None or found in bytes(document)
