"""The top-level fields of raw BSON documents: which kinds of value they hold and where, found without decoding.

A field's *kind* is its BSON type under MongoDB's own name, or, where some values of a type do not fit where the others
do, a kind of its own (``LARGE_LONG``).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says
from typing import NamedTuple

from export_pipeline.formats.extended_json import EncodingError, encode_document

LARGE_LONG = "long beyond 2^53"
"""A double does not hold all of them."""
ODD_DATE = "date beyond year 9999"
"""And before year 1: many readers refuse a whole column for one of them."""
OTHER_BINARY = "binData of a subtype"

_KINDS = {
    0x01: "double",
    0x02: "string",
    0x03: "object",
    0x04: "array",
    0x05: "binData",
    0x06: "undefined",
    0x07: "objectId",
    0x08: "bool",
    0x09: "date",
    0x0A: "null",
    0x0B: "regex",
    0x0C: "dbPointer",
    0x0D: "javascript",
    0x0E: "symbol",
    0x0F: "javascriptWithScope",
    0x10: "int",
    0x11: "timestamp",
    0x12: "long",
    0x13: "decimal",
    0x7F: "maxKey",
    0xFF: "minKey",
}
TYPES = {
    **{kind: bytes([type_]) for type_, kind in _KINDS.items()},
    LARGE_LONG: b"\x12",
    ODD_DATE: b"\x09",
    OTHER_BINARY: b"\x05",
}
"""The BSON type of each kind."""
SIZES = {
    "double": 8,
    "undefined": 0,
    "objectId": 12,
    "bool": 1,
    "date": 8,
    ODD_DATE: 8,
    "null": 0,
    "int": 4,
    "timestamp": 8,
    "long": 8,
    LARGE_LONG: 8,
    "decimal": 16,
    "maxKey": 0,
    "minKey": 0,
}
"""Of the kinds of fixed size, in bytes."""

YEAR_1, YEAR_10000 = -62_135_596_800_000, 253_402_300_800_000
"""When they begin, in milliseconds since 1970."""
EXACT_IN_DOUBLE = 1 << 53
"""A double holds all integers up to it."""

_length = Struct("<i").unpack_from
_long = Struct("<q").unpack_from


class Field(NamedTuple):
    """One field of a document: ``data[begin:end]`` is all of it, its value begins at ``value``."""

    kind: str
    name: bytes
    begin: int
    value: int
    end: int


# Where a value ends, by type.


def _fixed(size: int) -> Callable[[bytes, int], int]:
    return lambda _, value: value + size


def _sized(more: int) -> Callable[[bytes, int], int]:
    """Return for types that begin with a length, which counts all but ``more`` bytes."""

    def end(data: bytes, value: int) -> int:
        return value + more + int.from_bytes(data[value : value + 4], "little")  # unsigned, so never backwards

    return end


def _after_two_texts(data: bytes, value: int) -> int:
    return data.index(0, data.index(0, value) + 1) + 1


ENDS: dict[int, Callable[[bytes, int], int]] = {
    **{type_: _fixed(SIZES[kind]) for type_, kind in _KINDS.items() if kind in SIZES},
    **dict.fromkeys((0x02, 0x0D, 0x0E), _sized(4)),
    **dict.fromkeys((0x03, 0x04, 0x0F), _sized(0)),
    0x05: _sized(5),
    0x0B: _after_two_texts,
    0x0C: _sized(16),
}
"""For each type, what tells from the data and where a value begins where it ends."""


def kind_at(data: bytes, type_: int, value: int) -> str:
    """Return the kind of a value of a known type."""
    if type_ == 0x12:
        return "long" if -EXACT_IN_DOUBLE <= _long(data, value)[0] < EXACT_IN_DOUBLE else LARGE_LONG
    if type_ == 0x09:
        return "date" if YEAR_1 <= _long(data, value)[0] < YEAR_10000 else ODD_DATE
    if type_ == 0x05:
        return OTHER_BINARY if data[value + 4] else "binData"
    return _KINDS[type_]


def fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Yield the fields of the document ``data[start:stop]``. Raises EncodingError for what is not a document."""
    position, last = start + 4, stop - 1
    try:
        while position < last:
            zero = data.index(0, position, last)
            type_, value = data[position], zero + 1
            end = ENDS[type_](data, value)
            if end > last or (type_ == 0x02 and (end < value + 5 or data[end - 1])) or (type_ == 8 and data[value] > 1):
                break
            yield Field(kind_at(data, type_, value), data[position + 1 : zero], position, value, end)
            position = end
        if position == last and not data[last]:
            return
    except (IndexError, KeyError, ValueError, StructError):
        pass
    encode_document(data[start:stop], "canonical")  # says which field is damaged, and how
    raise EncodingError("a document is not valid BSON")


def type_kind(type_: int) -> str:
    """Return the kind of most values of a type."""
    return _KINDS[type_]


# Patterns for what many documents of a collection have in common.

_ONE_KIND = {
    "string": rb"....[^\0]*+\0",
    "bool": rb"[\0\1]",
    # These let a few of their kind through to be looked at one by one, and none of the other kind.
    "long": rb".{6}(?:[\0-\x1f]\0|[\xe0-\xff]\xff)",
    "date": rb".{5}(?:[\0-\xe5]\0\0|[\xc8-\xff]\xff\xff)",
}
_WITH_LENGTH = rb"(....)([^\0]*+)\0"


def is_patterned(kind: str) -> bool:
    """Tell whether ``pattern`` takes values of ``kind``; of the others the length must be read."""
    return kind in SIZES or kind == "string"


def pattern(name: bytes, kinds: Collection[str], *, capturing: bool = False) -> bytes:
    """Return a regular expression for a field that may be missing and holds one of ``kinds``, all patterned.

    Captured are, for each of ``groups(kinds)``, its values: the length and the text of a string, else the bytes.
    """
    choices = []
    for kind in groups(kinds):
        value = value_pattern(kind, kinds)
        if capturing and SIZES.get(kind):
            value = b"(%b)" % value
        elif capturing and kind == "string":
            value = _WITH_LENGTH
        choices.append(re.escape(TYPES[kind] + name) + rb"\0" + value)
    return b"(?:%b)?+" % b"|".join(choices)


def value_pattern(kind: str, kinds: Collection[str]) -> bytes:
    """Return a regular expression for the values of ``kind``, which is patterned, in a field that holds ``kinds``."""
    if {"long": LARGE_LONG, "date": ODD_DATE}.get(kind) in kinds:
        return b".{8}"
    return _ONE_KIND.get(kind, b".{%d}" % SIZES.get(kind, 0))


def groups(kinds: Collection[str]) -> list[str]:
    """Return the kinds without those that are read like another of them, in a fixed order."""
    alike = {LARGE_LONG: "long", ODD_DATE: "date"}
    return sorted({alike.get(kind, kind) for kind in kinds})


def compiled(patterns: Iterable[bytes]) -> Callable[[bytes, int, int], re.Match[bytes] | None]:
    """Return the ``match`` of patterns one after the other."""
    return re.compile(b"".join(patterns), re.DOTALL).match
