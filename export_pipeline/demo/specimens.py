"""One specimen of everything that BSON can hold and MongoDB 6.0 will store, most of it beyond PyMongo.

Written as raw BSON, since PyMongo cannot encode the deprecated types nor repeat a key. Left out on purpose:
what the server refuses (bad booleans, unknown types, more than 178 levels below the document, a second
``_id``) or replaces (a Timestamp of 0 at the top), and what it stores but no JSON can tell apart (text that is
not UTF-8, keys such as ``$oid``, NaN with a payload).
"""

import struct
from typing import Any, Final

import bson
from bson import Binary, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.raw_bson import RawBSONDocument

from export_pipeline.demo.text import HARD_TEXTS

_OBJECT_ID: Final = ObjectId("507f1f77bcf86cd799439011")
_UUID_BYTES: Final = bytes.fromhex("00112233445566778899aabbccddeeff")


def join(head: dict[str, Any], elements: bytes) -> RawBSONDocument:
    """Make a document of the fields of ``head`` and, after them, raw elements."""
    return RawBSONDocument(_document(_elements(head), elements))


def _document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def _elements(fields: dict[str, Any]) -> bytes:
    return bson.encode(fields)[4:-1]


def _element(kind: int, name: str, payload: bytes = b"") -> bytes:
    return bytes([kind]) + name.encode() + b"\0" + payload


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<i", len(encoded) + 1) + encoded + b"\0"


def _code_with_scope(code: str, scope: dict[str, Any]) -> bytes:
    body = _text(code) + bson.encode(scope)
    return struct.pack("<i", len(body) + 4) + body


def _nested(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {"leaf": "🍃"}
    for level in range(levels):
        document = {"deeper": document} if level % 2 else {"list": [document]}
    return document


def _values() -> dict[str, Any]:
    """Values that PyMongo can encode, by name."""
    return {
        "double_whole": 1.0,
        "double_fraction": 0.1,
        "double_nan": float("nan"),
        "double_minus_zero": -0.0,
        "double_infinity": float("inf"),
        "double_minus_infinity": float("-inf"),
        "double_largest": 1.7976931348623157e308,
        "double_smallest": 5e-324,
        "int32_lowest": -(2**31),
        "int32_highest": 2**31 - 1,
        "int64_small": Int64(1),
        "int64_beyond_javascript": 2**53 + 1,
        "int64_lowest": -(2**63),
        "int64_highest": 2**63 - 1,
        "decimal_trailing_zero": Decimal128("1.10"),
        "decimal_nan": Decimal128("NaN"),
        "decimal_infinity": Decimal128("Infinity"),
        "decimal_minus_infinity": Decimal128("-Infinity"),
        "decimal_minus_zero": Decimal128("-0E-6"),
        "decimal_largest": Decimal128("9.999999999999999999999999999999999E+6144"),
        "decimal_smallest": Decimal128("1E-6176"),
        "boolean_true": True,
        "boolean_false": False,
        "null": None,
        "object_id": _OBJECT_ID,
        "timestamp": Timestamp(1_700_000_000, 7),
        "timestamp_highest": Timestamp(2**32 - 1, 2**32 - 1),
        "regex": Regex(r'^/a"\\\/b$'),
        "min_key": MinKey(),
        "max_key": MaxKey(),
        "db_ref": DBRef("campaigns", _OBJECT_ID, "countly", note="with a further field"),
        "binary_empty": Binary(b""),
        "binary_generic": Binary(b"\0\xff{}\"'\n"),
        "binary_function": Binary(b"abc", 1),
        "binary_old": Binary(b"abc", 2),
        "uuid_old": Binary(_UUID_BYTES, 3),
        "uuid": Binary(_UUID_BYTES, 4),
        "binary_md5": Binary(_UUID_BYTES, 5),
        "binary_encrypted": Binary(_UUID_BYTES, 6),
        "binary_sensitive": Binary(b"abc", 8),
        "binary_vector": Binary(b"\x03\0\x01\x7f", 9),
        "binary_custom": Binary(b"abc", 0x80),
        "binary_custom_highest": Binary(b"abc", 0xFF),
        "document_empty": {},
        "array_empty": [],
        "array_mixed": [1, "two", None, [3.5, []], {"four": Int64(4)}],
        "keys_empty": {"": "no name", "inner": {"": {"": 0}}},
        "keys_with_dots": {"a.b": 1, ".": 2, "a": {"b": 3}, "..": 4},
        "keys_with_dollars": {"$price": 5, "$": 6, "cash$": 7, "$a.b": 8},
        "keys_like_numbers": {"1": "one", "0": "zero", "-1": "minus one"},
        "keys_in_scripts": {"имя": 1, "名前": 2, "اسم": 3, "👩🏽‍🚀": 4, 'quo"te\n': 5},
        "keys_of_javascript": {"__proto__": 1, "constructor": 2, "toString": 3},
        "nested_deeply": _nested(30),
        "nested_very_deeply": _nested(80),
        **{f"text_{name}": text for name, text in HARD_TEXTS.items()},
    }


def _dates() -> dict[str, int]:
    """Dates in milliseconds from 1970, by name; some outside the years that Python knows."""
    return {
        "date_of_1970": 0,
        "date_before_1970": -1,
        "date_of_1815": -4_883_068_800_000,
        "date_last_of_9999": 253_402_300_799_999,
        "date_of_10000": 253_402_300_800_000,
        "date_before_year_1": -62_135_596_800_001,
        "date_lowest": -(2**63),
        "date_highest": 2**63 - 1,
    }


def _specimens() -> dict[str, bytes]:
    scope = {"limit": 3, "note": "область"}
    array_with_odd_keys = _document(_element(0x02, "7", _text("a")), _element(0x02, "", _text("b")))
    repeated = _elements({"again": 1}) + _elements({"again": "two"})
    return {
        **{name: _elements({"value": value}) for name, value in _values().items()},
        **{name: _element(0x09, "value", struct.pack("<q", date)) for name, date in _dates().items()},
        "undefined": _element(0x06, "value"),
        "regex_with_all_options": _element(0x0B, "value", b"^caf\xc3\xa9\\s+\0ilmsux\0"),
        "db_pointer": _element(0x0C, "value", _text("countly.campaigns") + _OBJECT_ID.binary),
        "code": _element(0x0D, "value", _text('function () { return "ja\\n"; }')),
        "symbol": _element(0x0E, "value", _text("сиμβολ")),
        "code_with_scope": _element(0x0F, "value", _code_with_scope("function () { return limit; }", scope)),
        "array_with_odd_keys": _element(0x04, "value", array_with_odd_keys),
        "key_repeated": _elements({"value": "first"}) + _elements({"value": 2}),
        "key_repeated_inside": _element(0x03, "value", _document(repeated)),
        # From here on it is the document itself that is odd, not its `value`.
        "top_name_empty": _elements({"value": 1}) + _element(0x02, "", _text("a field without a name")),
        "top_name_with_dollar": _elements({"value": 1, "$price": 9.5}),
        "top_name_with_dots": _elements({"value": 1, "price.net": 8.0, "price": {"net": 7.5}}),
        "top_name_taken": _elements({"_col": "autumn", "value": 1}),
    }


SPECIMENS: Final[dict[str, bytes]] = _specimens()
"""By name, the elements that follow the usual fields of a document, as raw BSON."""
