"""One value of a raw BSON document, read from where it lies: ``data[begin:end]``."""

from datetime import datetime, timedelta
from struct import Struct

from export_pipeline.formats.bson_walk import tables
from export_pipeline.formats.extended_json import encode_value

_double = Struct("<d").unpack_from
_int32 = Struct("<i").unpack_from
_int64 = Struct("<q").unpack_from
_DOUBLE_TEXT = tables("canonical").items[b"\x01"][5]
_DECIMAL_TEXT = tables("canonical").items[b"\x13"][5]
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all dates of BSON are UTC, and naive ones are written faster


def read_text(data: bytes, begin: int, end: int) -> str:
    """Return a string; the lone surrogates that old drivers stored become escapes, as no text file can hold them."""
    if end < begin + 5 or data[end - 1]:
        raise ValueError
    raw = data[begin + 4 : end - 1]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogatepass").encode("utf-8", "backslashreplace").decode()


def read_double(data: bytes, begin: int, _end: int) -> float:
    """Return a double."""
    value: float = _double(data, begin)[0]
    return value


def read_int(data: bytes, begin: int, end: int) -> int:
    """Return an integer of 32 or 64 bits. A date is one too: milliseconds since 1970."""
    value: int = (_int32 if end - begin == 4 else _int64)(data, begin)[0]
    return value


def read_bool(data: bytes, begin: int, _end: int) -> bool:
    """Return a boolean."""
    if data[begin] > 1:
        raise ValueError
    return data[begin] == 1


def double_text(data: bytes, begin: int, _end: int) -> str:
    """Return a double as the shortest decimal that reads back as the same."""
    return _DOUBLE_TEXT(_double(data, begin)[0])


def decimal_text(data: bytes, begin: int, end: int) -> str:
    """Return a decimal128 with all its digits."""
    return _DECIMAL_TEXT(data[begin:end])


def id_text(data: bytes, begin: int, end: int) -> str:
    """Return an ObjectId as hexadecimal digits."""
    return data[begin:end].hex()


def date_text(data: bytes, begin: int, end: int) -> str:
    """Return a date as ISO 8601 has it; in Extended JSON where its year has not four digits."""
    try:
        moment = _EPOCH + timedelta(milliseconds=_int64(data, begin)[0])
    except OverflowError:
        return json_text(0x09, data, begin, end)
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def json_text(kind: int, data: bytes, begin: int, end: int) -> str:
    """Return a value of any type as relaxed Extended JSON."""
    return encode_value(kind, data[begin:end], "relaxed").decode()
