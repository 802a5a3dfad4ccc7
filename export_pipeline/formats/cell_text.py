"""Values as the text that people and spreadsheets read, a column of them at a time: for CSV, and mostly for Excel.

Each function takes values of one BSON type as they are stored (of strings, the text alone) and returns UTF-8.
They raise LookupError, ValueError or EncodingError where the values are none.
"""

from binascii import hexlify
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from struct import Struct, unpack

import orjson

from export_pipeline.formats.bson_walk import DOCUMENT, tables
from export_pipeline.formats.column_parts import EMPTY_DOCUMENT
from export_pipeline.formats.extended_json import encode_documents, encode_value

Values = Sequence[bytes]

_WORTH_LEARNING = 32
"""Values; fewer are written faster without learning what they have in common."""

_ANONYMOUS = b'{"":'

_DOUBLE_TEXT: Callable[[float], str] = tables("canonical").items[b"\x01"][5]
_DECIMAL_TEXT: Callable[[bytes], str] = tables("canonical").items[b"\x13"][5]
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all dates of BSON are UTC, and naive ones are written faster
_YEAR_1, _YEAR_10000 = -62_135_596_800_000, 253_402_300_800_000
_HOUR = 3_600_000
_SECONDS_OF_HOUR = tuple(b"%02d:%02d" % divmod(second, 60) for second in range(3600))
_int32 = Struct("<i").pack


def doubles(values: Values) -> tuple[float, ...]:
    """Return doubles."""
    return unpack(f"<{len(values)}d", b"".join(values))


def integers(values: Values) -> tuple[int, ...]:
    """Return integers, all of 32 or all of 64 bits. Dates are integers too: milliseconds since 1970."""
    code = "i" if len(values[0]) == 4 else "q"
    return unpack(f"<{len(values)}{code}", b"".join(values))


def text(values: Values) -> Values:
    """Return strings; the lone surrogates that old drivers stored become escapes, as no text file can hold them."""
    try:
        b"\0".join(values).decode()
    except UnicodeDecodeError:
        return [value.decode("utf-8", "surrogatepass").encode("utf-8", "backslashreplace") for value in values]
    return values


def double_text(values: Values) -> Values:
    """Return doubles as the shortest decimals that read back as the same."""
    numbers = doubles(values)
    joined = orjson.dumps(numbers)
    if b"n" in joined or b"e" in joined:  # null for what is no number, and exponents
        return [_DOUBLE_TEXT(number).encode() for number in numbers]
    return joined[1:-1].split(b",")


def integer_text(values: Values) -> Values:
    """Return integers."""
    return orjson.dumps(integers(values))[1:-1].split(b",")


def boolean_text(values: Values) -> Values:
    """Return booleans."""
    return list(map({b"\0": b"false", b"\1": b"true"}.__getitem__, values))


def id_text(values: Values) -> Values:
    """Return ObjectIds as hexadecimal digits."""
    return list(map(hexlify, values))


def decimal_text(values: Values) -> Values:
    """Return decimals of 128 bits with all their digits."""
    return [_DECIMAL_TEXT(value).encode() for value in values]


def date_text(values: Values) -> Values:
    """Return dates as ISO 8601 has them; in Extended JSON where the year has not four digits."""
    return [
        _moment_text(moment) if _YEAR_1 <= moment < _YEAR_10000 else encode_value(0x09, value, "relaxed")
        for moment, value in zip(integers(values), values, strict=True)
    ]


def _moment_text(milliseconds: int) -> bytes:
    # Looking the parts up takes half the time of datetime's isoformat.
    hour, rest = divmod(milliseconds, _HOUR)
    return b"%b%b.%03dZ" % (_hour_text(hour), _SECONDS_OF_HOUR[rest // 1000], rest % 1000)


@lru_cache(1 << 14)
def _hour_text(hour: int) -> bytes:
    return (_EPOCH + timedelta(hours=hour)).isoformat()[: len("0001-01-01T00:")].encode()


def json_text(type_: int, values: Values, key: str) -> Values:
    """Return values of any type as relaxed Extended JSON; ``key`` says where they are from."""
    if len(values) < _WORTH_LEARNING:
        return [encode_value(type_, value, "relaxed") for value in values]
    if type_ != DOCUMENT:
        documents = b"".join(b"%b%c\0%b\0" % (_int32(len(value) + 7), type_, value) for value in values)
        return [line[len(_ANONYMOUS) : -1] for line in encode_documents(documents, "relaxed", key)]
    if min(map(len, values)) < EMPTY_DOCUMENT:
        raise ValueError
    return encode_documents(b"".join(values), "relaxed", key)
