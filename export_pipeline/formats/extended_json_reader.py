"""MongoDB Extended JSON v2 back to BSON: what ``extended_json`` wrote, for restoring it and for proving it exact.

Built on PyMongo's ``json_util``, around the few things that it would lose: repeated keys and deprecated types.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import bson
from bson import ObjectId, json_util
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError

from export_pipeline.errors import BadInputError
from export_pipeline.formats.bson_walk import ARRAY, CODE_WITH_SCOPE, DOCUMENT, STRING, is_like_tag

_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, datetime_conversion=DatetimeConversion.DATETIME_MS
)
_NUMBERS = ("$numberDecimal", "$numberDouble", "$numberInt", "$numberLong")
_UNWRAPPED_BY_JSON_UTIL = (*_NUMBERS, "$binary", "$date", "$maxKey", "$minKey", "$oid", "$timestamp")


class DecodingError(BadInputError):
    """A line is not one tagged document in Extended JSON."""

    code: ClassVar[str] = "decoding"


class TaggedDocument(NamedTuple):
    """A document read back, and the collection that its tag names."""

    collection: str
    document: bytes


class _Object(dict[str, Any]):
    """A JSON object; ``pairs`` keeps what a dict would lose, a key that comes twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = list(pairs)


class _Value(NamedTuple):
    """A value that PyMongo would turn into one of another type: its BSON type and bytes."""

    kind: int
    payload: bytes


def decode_line(line: bytes) -> TaggedDocument:
    r"""Return the document on a line of a JSON or JSON Lines export, the tag taken off.

    >>> tagged = decode_line(b'{"_col":"events","__col":"mine","n":{"$numberInt":"5"}},\n')
    >>> tagged.collection, bson.decode(tagged.document)
    ('events', {'_col': 'mine', 'n': 5})

    A canonical line gives the bytes that were stored, but for what Extended JSON itself does not hold: the payload of
    a NaN, the bits of a Decimal128 that was not in its canonical form, the order of a regular expression's options,
    names of array items that were not "0", "1" and so on, surrogates stored as a pair, and whether what looks like the
    wrapper of a type (``{"$oid": …}``) was a document. A relaxed line gives integers the smallest type. Raises
    DecodingError.
    """
    # Raised after the block, so that no exception that carries values hangs on it.
    with suppress(ArithmeticError, AttributeError, BSONError, RecursionError, TypeError, ValueError):
        (tag, collection), *members = json.loads(line.rstrip(b",\r\n"), object_pairs_hook=_unwrapped).pairs
        if tag == "_col" and isinstance(collection, str):
            return TaggedDocument(collection, _document((_name_before_tag(name), value) for name, value in members))
    raise DecodingError("a line is not one document in Extended JSON that begins with its collection's name as _col")


def decode_document(text: bytes) -> bytes:
    """Return the document that is written as ``text``, without a tag. Raises DecodingError; see ``decode_line``."""
    with suppress(ArithmeticError, AttributeError, BSONError, RecursionError, TypeError, ValueError):
        return _document(json.loads(text, object_pairs_hook=_unwrapped).pairs)
    raise DecodingError("what should be a document in Extended JSON is none")


def _name_before_tag(name: str) -> str:
    return name[1:] if is_like_tag(name.encode("utf-8", "surrogatepass")) else name


def _unwrapped(pairs: Sequence[tuple[str, Any]]) -> Any:
    """Return the value that a JSON object stands for; what is the wrapper of no type stands for itself."""
    match pairs:
        case [("$undefined", True)]:
            return _Value(0x06, b"")
        case [("$regularExpression", _Object(pairs=[("pattern", str(pattern)), ("options", str(options))]))]:
            return _Value(0x0B, _name(pattern) + _name(options))
        case [("$dbPointer", _Object(pairs=[("$ref", str(namespace)), ("$id", ObjectId() as id_)]))]:
            return _Value(0x0C, _string(namespace) + id_.binary)
        case [("$code", str(code))]:
            return _Value(0x0D, _string(code))
        case [("$symbol", str(symbol))]:
            return _Value(0x0E, _string(symbol))
        case [("$code", str(code)), ("$scope", _Object() as scope)]:
            payload = _string(code) + _document(scope.pairs)
            return _Value(CODE_WITH_SCOPE, _int32(len(payload) + 4) + payload)
        case [(name, _)] if name in _UNWRAPPED_BY_JSON_UTIL:
            # What json_util refuses was a document: the writer makes no wrong wrappers.
            with suppress(ArithmeticError, BSONError, TypeError, ValueError):
                return json_util.object_hook(dict(pairs), _OPTIONS)
    return _Object(pairs)


def _document(members: Iterable[tuple[str, Any]]) -> bytes:
    content = b"".join(_element(name, value) for name, value in members)
    return _int32(len(content) + 5) + content + b"\0"


def _element(name: str, value: Any) -> bytes:
    match value:
        case _Value(kind, payload):
            pass
        case _Object():
            kind, payload = DOCUMENT, _document(value.pairs)
        case list():
            kind, payload = ARRAY, _document((str(i), item) for i, item in enumerate(value))
        case str():
            kind, payload = STRING, _string(value)
        case _:
            encoded = bson.encode({"": value})
            kind, payload = encoded[4], encoded[6:-1]
    return bytes([kind]) + _name(name) + payload


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass") + b"\0"
    return _int32(len(raw)) + raw


def _name(text: str) -> bytes:
    if "\0" in text:
        raise ValueError
    return text.encode("utf-8", "surrogatepass") + b"\0"


def _int32(number: int) -> bytes:
    return number.to_bytes(4, "little")
