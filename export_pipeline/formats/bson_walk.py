"""The exact walker: one pass over a raw BSON document that writes MongoDB Extended JSON v2.

It keeps what decoding to a dict loses (repeated keys, deprecated types, lone surrogates, NaN) and refuses what
is not BSON. It is the reference that the fast path in ``bson_shapes`` has to equal byte for byte.
"""

import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, lru_cache
from json.encoder import encode_basestring, encode_basestring_ascii
from math import isnan
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says
from typing import Any, ClassVar, Literal, NamedTuple

import orjson

from export_pipeline.errors import ExportPipelineError

Mode = Literal["relaxed", "canonical"]

MAX_DEPTH = 256
"""Levels of nesting that are written. MongoDB stores about 200; JSON readers give up near 1,000."""

_CACHED_FIELDS, _LONGEST_CACHED = 10_000, 200
"""Names that are data (a map by date, by user), or that a damaged document seems to have, must not fill the memory."""

_NAMED_BYTES = 120
"""How much of a field's name an error message shows; where lengths are damaged, what looks like one may not end."""

STRING, DOCUMENT, ARRAY, BINARY, CODE_WITH_SCOPE = 0x02, 0x03, 0x04, 0x05, 0x0F


class EncodingError(ExportPipelineError):
    """A stored document is not valid BSON, so it cannot be written without losing something."""

    code: ClassVar[str] = "encoding"


class _TooDeepError(ValueError):
    pass


# Texts of values. Each takes what struct unpacked and returns JSON, or what stands between the quotes of a wrapper.


def quote(raw: bytes) -> str:
    """Return BSON text as a JSON string; the lone surrogates that old drivers stored become escapes."""
    try:
        return encode_basestring(raw.decode())
    except UnicodeDecodeError:
        return encode_basestring_ascii(raw.decode("utf-8", "surrogatepass"))


def _double_text(value: float) -> str:
    """Return the shortest decimal that reads back as the same double."""
    text = orjson.dumps(value).decode()
    if text == "null":
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    mantissa, exponent_sign, exponent = text.partition("e")
    return f"{mantissa}E{int(exponent):+d}" if exponent_sign else text


def _relaxed_double_text(value: float) -> str:
    text = _double_text(value)
    return f'{{"$numberDouble":"{text}"}}' if text[-1] in "Ny" else text


_HOUR = 3_600_000
_YEAR_10000 = 253_402_300_800_000
_SECONDS_OF_HOUR = tuple(f"{minute:02d}:{second:02d}" for minute in range(60) for second in range(60))
_MILLISECONDS = ('Z"', *(f'.{millisecond:03d}Z"' for millisecond in range(1, 1000)))


@lru_cache(1 << 15)
def _hour_text(hour: int) -> str:
    return f'"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour):%Y-%m-%dT%H}:'


def _relaxed_date_text(milliseconds: int) -> str:
    if not 0 <= milliseconds < _YEAR_10000:
        return f'{{"$numberLong":"{milliseconds}"}}'
    # Looking the parts up takes half the time of datetime's isoformat.
    hour, rest = divmod(milliseconds, _HOUR)
    second, millisecond = divmod(rest, 1000)
    return f"{_hour_text(hour)}{_SECONDS_OF_HOUR[second]}{_MILLISECONDS[millisecond]}"


def _decimal_text(raw: bytes) -> str:
    """Return an IEEE 754-2008 decimal128 in its binary integer encoding as text.

    PyMongo's Decimal128 refuses some non-canonical values in its older versions.
    """
    low, high = _two_longs(raw)
    sign, combination = high >> 63, high >> 58 & 0x1F
    if combination == 0x1F:
        return "NaN"
    if combination == 0x1E:
        return "-Infinity" if sign else "Infinity"
    if combination >> 3 == 3:
        # The other form of the significand is beyond 34 digits for any value, and such values count as zero.
        exponent, significand = high >> 47 & 0x3FFF, 0
    else:
        exponent, significand = high >> 49 & 0x3FFF, (high & (1 << 49) - 1) << 64 | low
        significand = significand if significand < 10**34 else 0
    return str(Decimal((sign, tuple(map(int, str(significand))), exponent - 6176)))


def _timestamp_text(value: int) -> str:
    return f'{{"$timestamp":{{"t":{value >> 32},"i":{value & 0xFFFFFFFF}}}}}'


def base64_text(raw: bytes) -> str:
    """Return bytes as base64."""
    return b64encode(raw).decode()


def _nothing(_: object) -> str:
    return ""


class Scalar(NamedTuple):
    """A BSON type of fixed size: how struct reads it, and ``before + text(value) + after``, its JSON."""

    code: str
    text: Callable[[Any], str]
    before: str = ""
    after: str = ""


def _constant(json: str) -> Scalar:
    return Scalar("0s", _nothing, json)


def _scalars(mode: Mode) -> dict[int, Scalar]:
    shared = {
        0x06: _constant('{"$undefined":true}'),
        0x07: Scalar("12s", bytes.hex, '{"$oid":"', '"}'),
        0x08: Scalar("B", {0: "false", 1: "true"}.__getitem__),
        0x0A: _constant("null"),
        0x11: Scalar("Q", _timestamp_text),
        0x13: Scalar("16s", _decimal_text, '{"$numberDecimal":"', '"}'),
        0x7F: _constant('{"$maxKey":1}'),
        0xFF: _constant('{"$minKey":1}'),
    }
    if mode == "canonical":
        return shared | {
            0x01: Scalar("d", _double_text, '{"$numberDouble":"', '"}'),
            0x09: Scalar("q", str, '{"$date":{"$numberLong":"', '"}}'),
            0x10: Scalar("i", str, '{"$numberInt":"', '"}'),
            0x12: Scalar("q", str, '{"$numberLong":"', '"}'),
        }
    return shared | {
        0x01: Scalar("d", _relaxed_double_text),
        0x09: Scalar("q", _relaxed_date_text, '{"$date":', "}"),
        0x10: Scalar("i", str),
        0x12: Scalar("q", str),
    }


# Types of varying size other than strings. Each takes the bytes and where the value begins, and returns its JSON and
# where it ends. Running past the end of the document is the walker's to notice.

_int32 = Struct("<i").unpack_from
_binary_head = Struct("<iB").unpack_from
_two_longs = Struct("<QQ").unpack


def _string(data: bytes, start: int) -> tuple[str, int]:
    end = start + 4 + _int32(data, start)[0]
    if end < start + 5 or data[end - 1]:
        raise ValueError
    return quote(data[start + 4 : end - 1]), end


def binary_payload(data: bytes, start: int) -> tuple[int, int, int]:
    """Return the subtype of a binary value and where its payload begins and ends."""
    size, subtype = _binary_head(data, start)
    begin, end = start + 5, start + 5 + size
    if size < 0:
        raise ValueError
    if subtype == 2:
        # The old subtype repeats the length inside.
        begin += 4
        if _int32(data, begin - 4)[0] != end - begin:
            raise ValueError
    return subtype, begin, end


def binary_wrapper(subtype: int) -> tuple[str, str]:
    """Return what stands before and after the base64 of a binary value."""
    return '{"$binary":{"base64":"', f'","subType":"{subtype:02x}"}}}}'


def _binary(data: bytes, start: int) -> tuple[str, int]:
    subtype, begin, end = binary_payload(data, start)
    before, after = binary_wrapper(subtype)
    return f"{before}{base64_text(data[begin:end])}{after}", end


def _regular_expression(data: bytes, start: int) -> tuple[str, int]:
    middle = data.index(0, start)
    end = data.index(0, middle + 1)
    options = bytes(sorted(data[middle + 1 : end]))
    pattern = quote(data[start:middle])
    return f'{{"$regularExpression":{{"pattern":{pattern},"options":{quote(options)}}}}}', end + 1


def _db_pointer(data: bytes, start: int) -> tuple[str, int]:
    namespace, middle = _string(data, start)
    return f'{{"$dbPointer":{{"$ref":{namespace},"$id":{{"$oid":"{data[middle : middle + 12].hex()}"}}}}}}', middle + 12


def _code(data: bytes, start: int) -> tuple[str, int]:
    code, end = _string(data, start)
    return f'{{"$code":{code}}}', end


def _symbol(data: bytes, start: int) -> tuple[str, int]:
    symbol, end = _string(data, start)
    return f'{{"$symbol":{symbol}}}', end


def _code_of_scope(data: bytes, start: int) -> tuple[str, int]:
    code, scope = _string(data, start + 4)
    if scope + _int32(data, scope)[0] != start + _int32(data, start)[0]:
        raise ValueError
    return code, scope


_BRACKETS = {DOCUMENT: ("{", "}"), ARRAY: ("[", "]"), CODE_WITH_SCOPE: ("", "}}")}
_VARYING: dict[int, Callable[[bytes, int], tuple[str, int]]] = {
    BINARY: _binary,
    0x0B: _regular_expression,
    0x0C: _db_pointer,
    0x0D: _code,
    0x0E: _symbol,
}


Field = tuple[int, str, str, Callable[[bytes, int], tuple[Any, ...]] | None, int, Callable[[Any], str], str]
"""What an element's head (its type and name) says about how to write it: ``(kind, before, after, read, size, text,
code)``. ``before`` holds the name as JSON and the opening of the type's wrapper. The last four are those of a type of
fixed size; ``read`` is None for the others. A plain tuple, as the walker takes one apart for every element."""


class Fields(dict[bytes, Field]):
    """Heads of elements seen so far. Documents of a collection share their heads, so nearly all are found."""

    def __init__(self, mode: Mode, label: Callable[[bytes], str]) -> None:
        super().__init__()
        self._scalars = _scalars(mode)
        self._label = label

    def __missing__(self, head: bytes) -> Field:
        kind, label = head[0], self._label(head[1:])
        field: Field = (kind, label, "", None, 0, _nothing, "")
        if scalar := self._scalars.get(kind):
            code, text, before, after = scalar
            layout = Struct(f"<{code}")
            field = (kind, label + before, after, layout.unpack_from, layout.size, text, code)
        if len(head) <= _LONGEST_CACHED:
            if len(self) >= _CACHED_FIELDS:
                self.clear()
            self[head] = field
        return field


def _name_label(name: bytes) -> str:
    return f"{quote(name)}:"


def is_like_tag(name: bytes) -> bool:
    """Tell whether a name is ``_col``, ``__col`` and so on."""
    return re.fullmatch(b"_+col", name) is not None


def _beside_tag_label(name: bytes) -> str:
    # All names like it move, or taking the tag off again could not tell which did.
    return _name_label(b"_" + name if is_like_tag(name) else name)


def makes_place(members: list[str]) -> bool:
    """Tell whether members of a tagged document were renamed: only then does a name begin with ``__`` and end so."""
    return any(map(re.compile('"__+col":').match, members))


def _item_label(_: bytes) -> str:
    return ""


class Tables(NamedTuple):
    """The heads of one mode: at the top of a tagged document, in any other document, in an array."""

    beside_tag: Fields
    named: Fields
    items: Fields


@cache
def tables(mode: Mode) -> Tables:
    """Return the tables of a mode, which all encoders share."""
    return Tables(Fields(mode, _beside_tag_label), Fields(mode, _name_label), Fields(mode, _item_label))


def walk(data: bytes, start: int, mode: Mode, tag: str | None = None) -> tuple[list[str], int]:
    """Return the members (``"name":value``) of the document that begins at ``start``, and where it ends.

    With a tag, the member that is to stand first, members of the same form are renamed to make place for it.
    Raises EncodingError that names the top-level field.
    """
    beside_tag, named, items = tables(mode)
    fields = named if tag is None else beside_tag
    members = [] if tag is None else [tag]
    # Enclosing documents, set aside while one inside them is walked: members, end, fields, opening, closing, element.
    outer: list[tuple[list[str], int, Fields, str, str, int]] = []
    element = start
    find = data.index
    escape = encode_basestring
    try:
        end = _end(data, start, len(data))
        position = start + 4
        while True:
            while position < end:
                element = position
                position = find(0, position)
                kind, before, after, read, size, text, _ = fields[data[element:position]]
                position += 1
                if read is not None:
                    (value,) = read(data, position)
                    members.append(f"{before}{text(value)}{after}")
                    position += size
                elif kind == STRING:
                    # As _string does; this is the most frequent type.
                    (size,) = _int32(data, position)
                    begin, position = position + 4, position + 4 + size
                    if size < 1 or data[position - 1]:
                        raise ValueError
                    try:
                        members.append(before + escape(data[begin : position - 1].decode()))
                    except UnicodeDecodeError:
                        members.append(before + quote(data[begin : position - 1]))
                elif kind in _BRACKETS:
                    opening, closing = _BRACKETS[kind]
                    if kind == CODE_WITH_SCOPE:
                        code, position = _code_of_scope(data, position)
                        opening = f'{{"$code":{code},"$scope":{{'
                    if len(outer) >= MAX_DEPTH:
                        raise _TooDeepError
                    outer.append((members, end, fields, before + opening, closing, element))
                    members, end, fields = [], _end(data, position, end), items if kind == ARRAY else named
                    position += 4
                else:
                    value, position = _VARYING[kind](data, position)
                    members.append(before + value)
            if position > end:
                raise ValueError
            position = end + 1
            if not outer:
                return members, position
            inner = ",".join(members)
            members, end, fields, before, after, element = outer.pop()
            members.append(f"{before}{inner}{after}")
    except UnicodeDecodeError:
        problem = "holds text that is not valid UTF-8"
    except _TooDeepError:
        problem = f"is nested deeper than {MAX_DEPTH} levels"
    except (IndexError, KeyError, ValueError, StructError):
        problem = "is not valid BSON: a length or a type is wrong, or it is cut short"
    # Raised out here so that no exception that carries stored values hangs on it.
    raise EncodingError(f"{_place(data, start, outer[0][-1] if outer else element)} {problem}")


def _end(data: bytes, start: int, limit: int) -> int:
    """Return where the closing zero byte of a document stands, or raise ValueError."""
    end: int = start + _int32(data, start)[0] - 1
    if end < start + 4 or end >= limit or data[end]:
        raise ValueError
    return end


def _place(data: bytes, start: int, element: int) -> str:
    """Name the top-level field that begins at ``element``; names are not personal data, values may be."""
    if element == start:
        return "a document"
    name = data[element + 1 : data.find(0, element + 1)]
    return f'field "{name[:_NAMED_BYTES].decode(errors="backslashreplace")}"'
