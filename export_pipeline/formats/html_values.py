"""Values for people: a stored value as a short text that says what it is. The whole value is in the page's data."""

import math
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from export_pipeline.formats.bson_fields import TYPES, Field, fields
from export_pipeline.formats.bson_values import (
    decimal_text,
    double_text,
    id_text,
    json_text,
    read_bool,
    read_double,
    read_int,
    read_text,
)
from export_pipeline.formats.html_times import iso_text, milliseconds, moment_text

LONGEST_TEXT = 160
"""Characters of a value that a table shows."""

_DEEPEST = 6
"""Levels of an embedded value that a table shows."""

_UUID = 4
_UUID_BYTES = 16

Kind = Literal["text", "number", "time", "code", "nothing", "nested"]


class Cell(NamedTuple):
    """One value as a table shows it."""

    text: str
    kind: Kind
    key: str = ""
    """What to sort by, where that is a number."""
    note: str = ""
    """What the text leaves out."""
    time: str = ""
    """For a moment, the same as a machine reads it."""


EMPTY = Cell("", "nothing")

# What is shown in place of characters that a page may not hold, or that would make its text read as it does not:
# control characters, and those that turn the direction of what follows.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_UNSHOWN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(plane | 0xFFFE)}{chr(plane | 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "]"
)


def shown(text: str) -> str:
    r"""Return text that can stand in a page and reads as what it is.

    >>> shown("a\0b\u202ec")
    'a␀b\\u202ec'
    """
    return _UNSHOWN.sub(lambda found: _PICTURES.get(ord(found[0])) or _escape(found[0]), text)


def _escape(character: str) -> str:
    return ascii(character)[1:-1]


def name_text(name: bytes) -> str:
    """Return a field's name."""
    return name.decode("utf-8", "backslashreplace")


def cell(data: bytes, field: Field, unit: str | None = None) -> Cell:
    """Return a field of valid BSON as a cell; ``unit`` is s or ms where a number counts the time since 1970."""
    value = _number(field.kind, data, field.value, field.end)
    moment = milliseconds(value, unit) if unit in ("s", "ms") else None
    if field.kind == "date":
        moment = read_int(data, field.value, field.end)
    if moment is not None:
        return Cell(moment_text(moment), "time", str(moment), time=iso_text(moment))
    if value is not None:
        key = repr(value) if math.isfinite(value) else ""
        return Cell(_TEXTS[field.kind](data, field.value, field.end), "number", key)
    if field.kind in ("object", "array"):
        return _nested_cell(data, field)
    if field.kind == "null":
        return Cell("empty", "nothing")
    if field.kind in ("string", "bool"):
        return _short(_TEXTS[field.kind](data, field.value, field.end), "text")
    return _short(_text(field.kind, data, field.value, field.end), "code")


def fields_cell(data: bytes, members: list[Field], *, more: bool) -> Cell:
    """Return several fields as one cell; ``more`` says that there are others still."""
    text = _gathered(_members(data, iter(members), 0))
    return Cell(f"{text}, …" if more and not text.endswith("…") else text, "nested")


def _nested_cell(data: bytes, field: Field) -> Cell:
    text = _gathered(_fragments(field.kind, data, field.value, field.end, 0))
    return Cell(text, "nested") if text else Cell("empty", "nothing")


def _short(text: str, kind: Kind) -> Cell:
    if len(text) <= LONGEST_TEXT:
        return Cell(text, kind)
    return Cell(f"{text[:LONGEST_TEXT]}…", kind, note=f"{len(text):,} characters in all")


def _gathered(fragments: Iterator[str]) -> str:
    """Return the fragments as one text, those that it has room for."""
    text = ""
    for fragment in fragments:
        text += fragment
        if len(text) > LONGEST_TEXT:
            return f"{text[:LONGEST_TEXT]}…"
    return text


def _fragments(kind: str, data: bytes, begin: int, end: int, depth: int) -> Iterator[str]:
    """Yield a value bit by bit, so that nobody need read all of it."""
    if kind not in ("object", "array"):
        yield _text(kind, data, begin, end)
    elif depth > _DEEPEST:
        yield "…"
    elif kind == "object":
        yield from _enclosed("{}", _members(data, fields(data, begin, end), depth), depth)
    else:
        yield from _enclosed("[]", _items(data, begin, end, depth), depth)


def _enclosed(brackets: str, inner: Iterator[str], depth: int) -> Iterator[str]:
    """Yield what is embedded; the outermost brackets say nothing to the reader."""
    if not depth:
        yield from inner
        return
    yield brackets[0]
    yield from inner
    yield brackets[1]


def _members(data: bytes, members: Iterator[Field], depth: int) -> Iterator[str]:
    for number, member in enumerate(members):
        yield f"{', ' if number else ''}{name_text(member.name)}: "
        yield from _fragments(member.kind, data, member.value, member.end, depth + 1)


def _items(data: bytes, begin: int, end: int, depth: int) -> Iterator[str]:
    for number, item in enumerate(fields(data, begin, end)):
        yield ", " if number else ""
        yield from _fragments(item.kind, data, item.value, item.end, depth + 1)


def _number(kind: str, data: bytes, begin: int, end: int) -> float | None:
    """Return a number's value, or one near it; None for what is no number."""
    if kind in ("int", "long", "long beyond 2^53"):
        return read_int(data, begin, end)
    if kind == "double":
        return read_double(data, begin, end)
    return float(decimal_text(data, begin, end)) if kind == "decimal" else None


def _text(kind: str, data: bytes, begin: int, end: int) -> str:
    """Return a value that embeds no other; of a rare type, as Extended JSON."""
    write = _TEXTS.get(kind)
    return write(data, begin, end) if write else json_text(TYPES[kind][0], data, begin, end)


def _integer_text(data: bytes, begin: int, end: int) -> str:
    return str(read_int(data, begin, end))


def _binary_text(data: bytes, begin: int, end: int) -> str:
    size = end - begin - 5
    if data[begin + 4] == _UUID and size == _UUID_BYTES:
        return str(uuid.UUID(bytes=data[begin + 5 : end]))
    return f"binary data, {size:,} bytes"


_TEXTS: dict[str, Callable[[bytes, int, int], str]] = {
    "string": read_text,
    "bool": lambda data, begin, end: "yes" if read_bool(data, begin, end) else "no",
    "null": lambda _data, _begin, _end: "empty",
    "date": lambda data, begin, end: moment_text(read_int(data, begin, end)),
    "int": _integer_text,
    "long": _integer_text,
    "long beyond 2^53": _integer_text,
    "double": double_text,
    "decimal": decimal_text,
    "objectId": id_text,
    "binData": _binary_text,
    "binData of a subtype": _binary_text,
}


_INDENT, _DEEPEST_INDENT = "  ", 24
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^"{}\[\],:]+')


def indented(json: str, most: int) -> tuple[str, bool]:
    r"""Return JSON text with a line for each member, up to ``most`` characters, and whether that is all of it.

    Working on the text, it keeps what parsing loses: repeated names, digits, the order.

    >>> indented('{"a":[1,{}]}', 100)
    ('{\n  "a": [\n    1,\n    {}\n  ]\n}', True)
    """
    parts: list[str] = []
    size = depth = 0
    before = ""
    for found in _TOKENS.finditer(json):
        piece = found[0]
        closes = piece in ("}", "]")
        depth -= closes
        breaks = before not in ("{", "[") if closes else before in ("{", "[", ",")
        parts.append(f"\n{_INDENT * min(depth, _DEEPEST_INDENT)}{piece}" if breaks else piece)
        if piece == ":":
            parts.append(" ")
        depth += piece in ("{", "[")
        size += len(parts[-1])
        if size > most:
            return "".join(parts)[:most], False
        before = piece
    return "".join(parts), True
