"""Extended JSON v2 to the letter: the spec's own cases, what the spec's cases leave out, and what is no BSON."""

import json
from collections.abc import Mapping
from itertools import count
from struct import pack
from typing import Any

import bson
import pytest
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export_pipeline.formats.bson_form import NotWorthItError
from export_pipeline.formats.extended_json import (
    EncodingError,
    Mode,
    _Encoder,
    encode_batch,
    encode_document,
    encode_documents,
    encode_value,
)
from export_pipeline_tests.conftest import SHARED_DATA
from export_pipeline_tests.formats import raw_bson
from export_pipeline_tests.formats.raw_bson import Element, binary, code_with_scope, date, document, double, string

CORPUS = SHARED_DATA / "bson-corpus"
MODES: tuple[Mode, ...] = ("relaxed", "canonical")
TAG = '"_col":"events"'
OID = bytes(range(12))
OID_HEX = OID.hex()

modes = st.sampled_from(MODES)
unique = (f"collection{number}" for number in count())


def corpus(section: str) -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}: {case['description']}")
        for path in sorted(CORPUS.glob("*.json"))
        for case in json.loads(path.read_text()).get(section, [])
    ]


needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the spec's BSON corpus is not at {CORPUS}")


class Pairs(list[Any]):
    """A JSON object as its pairs, so that comparing sees order and repeated keys."""


def parsed(text: str | bytes) -> Any:
    return json.loads(text, object_pairs_hook=Pairs)


# The spec's own cases


@needs_corpus
@pytest.mark.parametrize("case", corpus("valid"))
def test_corpus_is_written_to_the_letter(case: dict[str, str]) -> None:
    canonical = case["canonical_extjson"]
    for raw in (bytes.fromhex(case[key]) for key in ("canonical_bson", "degenerate_bson") if key in case):
        assert parsed(encode_document(raw, "canonical")) == parsed(canonical)
        if "relaxed_extjson" in case:
            assert parsed(encode_document(raw, "relaxed")) == parsed(case["relaxed_extjson"])
        else:
            assert json_util.loads(encode_document(raw, "relaxed")) == json_util.loads(canonical)


@needs_corpus
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", corpus("valid"))
def test_corpus_in_a_large_batch_reads_the_same(case: dict[str, str], mode: Mode) -> None:
    raw = bytes.fromhex(case["canonical_bson"])
    assert set(encode_documents(raw * 300, mode, next(unique))) == {encode_document(raw, mode)}


@needs_corpus
@pytest.mark.parametrize("case", corpus("decodeErrors"))
def test_what_the_corpus_calls_damaged_is_refused(case: dict[str, str]) -> None:
    for mode in MODES:
        with pytest.raises(EncodingError):
            encode_document(bytes.fromhex(case["bson"]), mode)


# What this part of the corpus leaves out


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (0x06, b"", '{"$undefined":true}'),
        (0x0E, string(b"s"), '{"$symbol":"s"}'),
        (0x0C, string(b"db.c") + OID, f'{{"$dbPointer":{{"$ref":"db.c","$id":{{"$oid":"{OID_HEX}"}}}}}}'),
        (0x0D, string(b"f()"), '{"$code":"f()"}'),
        (0x0F, code_with_scope(b"f()", document()), '{"$code":"f()","$scope":{}}'),
        (0x0B, b"a.*\0xmi\0", '{"$regularExpression":{"pattern":"a.*","options":"imx"}}'),
        (0x11, pack("<II", 1, 2**32 - 1), '{"$timestamp":{"t":4294967295,"i":1}}'),
        (0xFF, b"", '{"$minKey":1}'),
        (0x7F, b"", '{"$maxKey":1}'),
        (0x05, binary(2, b"\xff"), '{"$binary":{"base64":"/w==","subType":"02"}}'),
        (0x05, binary(4, bytes(16)), '{"$binary":{"base64":"AAAAAAAAAAAAAAAAAAAAAA==","subType":"04"}}'),
        (0x02, string(b"a\0b\xc2\x80"), '"a\\u0000b\x80"'),
    ],
)
def test_types_that_are_written_alike_in_both_modes(kind: int, value: bytes, expected: str) -> None:
    for mode in MODES:
        assert encode_value(kind, value, mode).decode() == expected


@pytest.mark.parametrize(
    ("high_and_low", "text"),
    [
        ("7C00000000000000 0000000000000000", "NaN"),
        ("FE00000000000000 0000000000000012", "NaN"),
        ("F800000000000000 0000000000000000", "-Infinity"),
        ("B040000000000000 0000000000000000", "-0"),
        ("303E000000000000 0000000000000001", "0.1"),
        ("B02C000000000000 0000000000000064", "-1.00E-8"),
        ("3046000000000000 0000000000000001", "1E+3"),
        ("5FFFED09BEAD87C0 378D8E63FFFFFFFF", "9.999999999999999999999999999999999E+6144"),
        ("0000000000000000 0000000000000001", "1E-6176"),
        # More than 34 digits, in either form of the significand, count as zero.
        ("6C11FFFFFFFFFFFF FFFFFFFFFFFFFFFF", "0E+3"),
        ("3041FFFFFFFFFFFF FFFFFFFFFFFFFFFF", "0"),
    ],
)
def test_decimal128(high_and_low: str, text: str) -> None:
    raw = bytes.fromhex(high_and_low)[::-1]
    assert encode_value(0x13, raw, "canonical").decode() == f'{{"$numberDecimal":"{text}"}}'


@pytest.mark.parametrize(
    ("milliseconds", "relaxed"),
    [
        (-1, '{"$numberLong":"-1"}'),
        (0, '"1970-01-01T00:00:00Z"'),
        (1, '"1970-01-01T00:00:00.001Z"'),
        (951_782_400_120, '"2000-02-29T00:00:00.120Z"'),
        (253_402_300_799_999, '"9999-12-31T23:59:59.999Z"'),
        (253_402_300_800_000, '{"$numberLong":"253402300800000"}'),
        (2**63 - 1, '{"$numberLong":"9223372036854775807"}'),
    ],
)
def test_relaxed_dates_are_readable_from_1970_to_9999(milliseconds: int, relaxed: str) -> None:
    assert encode_document(document(date(milliseconds)), "relaxed").decode() == f'{{"at":{{"$date":{relaxed}}}}}'


@pytest.mark.parametrize(
    ("value", "relaxed", "canonical"),
    [
        (1.0, "1.0", "1.0"),
        (-0.0, "-0.0", "-0.0"),
        (1e16, None, "1E+16"),
        (1.5e-7, None, "1.5E-7"),
        (5e-324, None, "5E-324"),
        (float("inf"), '{"$numberDouble":"Infinity"}', "Infinity"),
        (float("-inf"), '{"$numberDouble":"-Infinity"}', "-Infinity"),
        (float("nan"), '{"$numberDouble":"NaN"}', "NaN"),
    ],
)
def test_doubles(value: float, relaxed: str | None, canonical: str) -> None:
    raw = document(double(value))
    assert encode_document(raw, "canonical").decode() == f'{{"d":{{"$numberDouble":"{canonical}"}}}}'
    text = encode_document(raw, "relaxed").decode()
    assert text == f'{{"d":{relaxed}}}' if relaxed else json.loads(text)["d"] == value


def test_names_are_kept_whatever_they_are_and_however_often_they_come() -> None:
    raw = document(*((0x10, name, pack("<i", i)) for i, name in enumerate([b"", b"a.b", b"$x", b"a", b"a", b'"\n'])))
    assert encode_document(raw, "relaxed") == rb'{"":0,"a.b":1,"$x":2,"a":3,"a":4,"\"\n":5}'


def test_lone_surrogates_become_escapes() -> None:
    raw = document((0x02, b"\xed\xa0\x80", string("é".encode() + b"\xed\xb0\x80")))
    assert encode_document(raw, "relaxed") == rb'{"\ud800":"\u00e9\udc00"}'


# The tag


def test_each_document_is_tagged_and_separated() -> None:
    batch = bson.encode({"a": 1}) + bson.encode({}) + bson.encode({"s": "two\nlines"})
    encoded = encode_batch(memoryview(batch), "events", "relaxed", b",\n")
    assert encoded.data == b'{"_col":"events","a":1},\n{"_col":"events"},\n{"_col":"events","s":"two\\nlines"}'
    assert (encoded.documents, encoded.renamed) == (3, 0)


def test_an_empty_batch_is_empty() -> None:
    assert encode_batch(b"", "events", "relaxed", b"\n").data == b""


def test_names_like_the_tag_make_place_at_the_top_and_only_there() -> None:
    batch = bson.encode({"_col": 1, "__col": 2, "x_col": 3, "s": {"_col": 4}}) + bson.encode({"s": '"__col":'})
    encoded = encode_batch(batch, "events", "relaxed", b"\n")
    assert encoded.data.splitlines() == [
        b'{"_col":"events","__col":1,"___col":2,"x_col":3,"s":{"_col":4}}',
        rb'{"_col":"events","s":"\"__col\":"}',
    ]
    assert encoded.renamed == 1


def test_renamed_documents_are_counted_in_large_batches_too() -> None:
    batch = b"".join(bson.encode({"n": n} | ({"_col": n} if n % 3 else {})) for n in range(900))
    assert encode_batch(batch, next(unique), "canonical", b"\n").renamed == 600


# What is not BSON


@pytest.mark.parametrize(
    ("element", "problem"),
    [
        ((0x02, b"s", string(b"secret\xff")), 'field "s" holds text that is not valid UTF-8'),
        ((0x02, b"s", pack("<i", 7) + b"secret"), 'field "s" is not valid BSON'),
        ((0x02, b"s", pack("<i", 2**31 - 1) + b"secret\0"), 'field "s" is not valid BSON'),
        ((0x03, b"s", document((0x02, b"t", string(b"secret\xff")))), 'field "s" holds text that is not valid UTF-8'),
        ((0x03, b"s", document((0x42, b"t", b"secret"))), 'field "s" is not valid BSON'),
        ((0x05, b"s", pack("<iBi", 10, 2, 7) + b"secret"), 'field "s" is not valid BSON'),
        ((0x08, b"s", b"\x02"), 'field "s" is not valid BSON'),
        ((0x02, b"\xff", string(b"secret")), r'field "\xff" holds text that is not valid UTF-8'),
    ],
)
def test_damage_is_refused_naming_the_collection_and_the_field_but_no_value(element: Element, problem: str) -> None:
    with pytest.raises(EncodingError, match="collection 'events'") as caught:
        encode_batch(document((0x10, b"n", bytes(4)), element), "events", "relaxed", b"\n")
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("cut", [1, 4, 5, 12])
def test_a_batch_that_is_cut_short_is_refused(cut: int) -> None:
    batch = bson.encode({"a": "text"}) * 300
    with pytest.raises(EncodingError):
        encode_batch(batch[:-cut], next(unique), "relaxed", b"\n")


def test_deep_nesting_works_to_a_limit() -> None:
    assert encode_document(raw_bson.nested(200), "relaxed") == b'{"a":' * 200 + b"{}" + b"}" * 200
    with pytest.raises(EncodingError, match='field "a" is nested deeper than'):
        encode_document(raw_bson.nested(100_000), "relaxed")


# The fast path


def walked(raw: bytes, mode: Mode) -> bytes:
    """Encode one document exactly: alone, a document never takes the fast path."""
    return encode_batch(raw, next(unique), mode, b"\n").data


def encoder(mode: Mode, learned: list[bytes]) -> _Encoder:
    """Return an encoder that has seen documents."""
    fresh = _Encoder(TAG, mode)
    for raw in learned:
        try:
            fresh._form.learn(raw, 0)
        except NotWorthItError:
            continue
    fresh._shape = fresh._form.shape()
    return fresh


def lines(of: _Encoder, batch: bytes) -> list[bytes] | None:
    """Return the batch's lines, or None where it is refused."""
    try:
        return [line for window in of.windows(batch) for line in window.lines]
    except EncodingError:
        return None


def event(number: int) -> dict[str, Any]:
    """An event as plugins store them, with fields that some lack."""
    stored: dict[str, Any] = {
        "_id": bson.ObjectId(f"{number:024x}"),
        "uid": f"{number:x}",
        "ts": bson.Int64(1_700_000_000_000 + number),
        "cd": bson.DatetimeMS(1_700_000_000_000 + number * 999),
        "c": 1,
        "dur": number / 7,
        "up": {"cc": "TR", "cty": "İstanbul", "p": 'a "phone"'},
        "sg": {f"key{number % 3}": "value", "price": float(number), "ok": number % 2 == 0},
        "tags": ["a", "b\\c", "%s"][: number % 4],
    }
    if number % 5 == 0:
        del stored["dur"]
    if number % 7 == 0:
        del stored["up"]
    if number % 11 == 0:
        stored["sg"]["price"] = float("nan")
    return stored


@pytest.mark.parametrize("mode", MODES)
def test_events_go_through_the_fast_path_and_come_out_the_same(mode: Mode) -> None:
    documents = [bson.encode(event(number)) for number in range(1000)]
    collection = next(unique)
    expected = [json.loads(walked(raw, mode)) | {"_col": collection} for raw in documents]
    for _ in range(2):
        encoded = encode_batch(b"".join(documents), collection, mode, b"\n")
        assert [json.loads(line) for line in encoded.data.splitlines()] == expected

    taught = encoder(mode, documents[:100])
    assert taught._shape is not None
    groups = [found.groups(b"") for raw in documents if (found := taught._shape.match(raw, 0))]
    assert len(groups) == len(documents)
    assert taught._shape.lines(groups) is not None


@settings(deadline=None)
@example([document((0x05, b"_col", binary(0, b"x")))], [], "relaxed")
@given(st.lists(raw_bson.documents(), min_size=1, max_size=6), st.lists(raw_bson.documents(), max_size=2), modes)
def test_the_fast_path_writes_what_the_walker_writes(learned: list[bytes], others: list[bytes], mode: Mode) -> None:
    documents = [*learned, *others, *learned]
    plain = _Encoder(TAG, mode)
    assert lines(encoder(mode, learned), b"".join(documents)) == [
        line for raw in documents for line in lines(plain, raw) or ()
    ]


@settings(deadline=None, max_examples=300)
@given(st.data(), st.lists(raw_bson.documents(), min_size=1, max_size=3), modes)
def test_the_fast_path_refuses_damage_like_the_walker(data: st.DataObject, learned: list[bytes], mode: Mode) -> None:
    sound = b"".join(learned)
    place = data.draw(st.integers(0, len(sound) - 1))
    batch = sound[:place] + data.draw(st.binary(min_size=1, max_size=3)) + sound[place + 1 :]
    assert lines(encoder(mode, learned), batch) == lines(_Encoder(TAG, mode), batch)


def test_a_string_that_looks_like_the_rest_of_a_document_stays_a_string() -> None:
    usual = bson.encode({"s": "a", "n": 5})
    rest = usual[usual.index(b"a\0") + 2 :]
    odd = document((0x02, b"s", string(b"a\0" + rest)))
    taught = encoder("relaxed", [usual])
    assert lines(taught, usual + odd + usual) == lines(_Encoder(TAG, "relaxed"), usual + odd + usual)


@settings(deadline=None)
@given(raw_bson.documents(unusual=False))
def test_canonical_text_reads_back_as_the_document(raw: bytes) -> None:
    options: CodecOptions[Mapping[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
    json_options = json_util.JSONOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
    read = json_util.loads(encode_document(raw, "canonical"), json_options=json_options)
    assert bson.encode(read) == bson.encode(bson.decode(raw, options))
