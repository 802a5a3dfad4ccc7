"""What the documents of a collection have in common, learned from a sample of them.

A ``Form`` takes documents in, one after the other, and makes the ``Shape`` that takes apart all that are like them.
"""

import re
from dataclasses import dataclass, field
from struct import Struct

from export_pipeline.formats.bson_shapes import MAYBE_FIRST, Column, Length, Segment, Shape, column, string_column
from export_pipeline.formats.bson_walk import (
    ARRAY,
    BINARY,
    DOCUMENT,
    STRING,
    Fields,
    Mode,
    base64_text,
    binary_payload,
    binary_wrapper,
    is_like_tag,
    tables,
)

_MOST_ELEMENTS = 200
_MOST_LEVELS = 32
"""Beyond, looking for all that a document may have takes as long as walking what it has."""

_LONGEST_BINARY = 64
"""Short binary values are ids and hashes, whose length does not vary."""

_GAP = "\0"
"""Where a column goes between texts; JSON has no zero byte."""


class NotWorthItError(Exception):
    """The document is too large, or has types or names that shapes leave to the walker."""


@dataclass(slots=True)
class _Element:
    """A member of the documents seen: the bytes that announce it and its value, what is inside, and its JSON."""

    announced: bytes
    kind: int
    before: str
    after: str
    code: str
    size: int
    column: Column
    optional: bool = False
    inner: list["_Element"] = field(default_factory=list)


class Form:
    """All that the documents seen so far have, in an order that fits them all, and what some of them lack."""

    def __init__(self, mode: Mode, tag: str | None) -> None:
        self._mode: Mode = mode
        self._tag = tag
        self._elements: list[_Element] = []
        self._size = 0

    def learn(self, data: bytes, start: int) -> None:
        """Take in the valid document at ``start``.

        Raises NotWorthItError. What is known by then stays: that a shape expects too much only means that it fits
        fewer documents.
        """
        self._merge(self._elements, data, start, tables(self._mode).named, level=0, new=not self._size)

    def shape(self) -> Shape:
        """Return the shape of the documents seen."""
        return _Compiler().compile(self._elements, self._tag)

    def _merge(self, known: list[_Element], data: bytes, start: int, fields: Fields, *, level: int, new: bool) -> None:
        if level > _MOST_LEVELS:
            raise NotWorthItError
        position, end, cursor = start + 4, _end(data, start) - 1, 0
        while position < end:
            element, value, position = _read(data, position, fields)
            if level == 0 and self._tag is not None and is_like_tag(element.announced[1:-1]):
                raise NotWorthItError
            place = next((i for i in range(cursor, len(known)) if known[i].announced == element.announced), None)
            unseen = place is None
            if place is None:
                self._size += 1
                if self._size > _MOST_ELEMENTS:
                    raise NotWorthItError
                place = cursor
                element.optional = not new
                known.insert(place, element)
            for lacked in known[cursor:place]:
                lacked.optional = True
            cursor = place + 1
            if element.kind in (DOCUMENT, ARRAY):
                _, named, items = tables(self._mode)
                inner = items if element.kind == ARRAY else named
                self._merge(known[place].inner, data, value, inner, level=level + 1, new=unseen)
        for lacked in known[cursor:]:
            lacked.optional = True


def _end(data: bytes, start: int) -> int:
    return start + int.from_bytes(data[start : start + 4], "little")


def _read(data: bytes, start: int, fields: Fields) -> tuple[_Element, int, int]:
    """Return the element at ``start``, where its value begins, and where it ends."""
    value = data.index(0, start) + 1
    kind, before, after, read, size, text, code = fields[data[start : value - 1]]
    element = _Element(data[start:value], kind, before, after, code, size, column(code, text))
    if read is not None:
        return element, value, value + size
    if kind == STRING:
        return element, value, value + 4 + _end(data, value) - value
    if kind in (DOCUMENT, ARRAY):
        return element, value, _end(data, value)
    if kind == BINARY:
        subtype, begin, end = binary_payload(data, value)
        if 0 < end - begin <= _LONGEST_BINARY:
            opening, closing = binary_wrapper(subtype)
            write = column("s", base64_text)
            size = end - begin
            return _Element(data[start:begin], kind, before + opening, closing, f"{size}s", size, write), begin, end
    raise NotWorthItError


class _Compiler:
    """Goes over a form and notes what becomes of each byte of a document, and where each part of its JSON is from."""

    def __init__(self) -> None:
        self._pattern: list[bytes] = []
        self._groups = 0
        self._segments: list[Segment] = []
        self._lengths: list[Length] = []
        self._marked = False
        # The documents around, and the innermost optional element around (0 for none), where the compiler is.
        self._around: list[Length] = []
        self._optional = self._optionals = 0
        # The segment that is being made, if one is: its text, its values, how struct reads the group that is open.
        self._segment: Segment | None = None
        self._text: list[str] = []
        self._values = 0
        self._codes: list[str] = []

    def compile(self, elements: list[_Element], tag: str | None) -> Shape:
        self._document(elements, "{", "}", tag)
        self._end_segment()
        match = re.compile(b"".join(self._pattern), re.DOTALL).match
        return Shape(match, self._segments, self._lengths, self._marked)

    def _document(self, elements: list[_Element], opening: str, closing: str, tag: str | None = None) -> None:
        length = Length(self._optional)
        self._around.append(length)
        self._lengths.append(length)
        length.value = self._value("i", 4)
        length.segment = len(self._segments) - 1
        self._text.append(opening)
        comma = ""
        if tag is not None:
            self._text.append(tag)
            comma = ","
        elif elements and elements[0].optional:
            self._text.append(MAYBE_FIRST)
            self._marked = True
            comma = ","
        for element in elements:
            if element.optional:
                self._optional_element(element, comma)
            else:
                self._element(element, comma)
            comma = ","
        self._literal(b"\0")
        self._text.append(closing)
        self._around.pop()

    def _optional_element(self, element: _Element, comma: str) -> None:
        around = self._optional
        self._optionals += 1
        self._optional = self._optionals
        self._end_segment()
        # Atomic: what is found is not given back, or documents that do not fit would take long to turn down.
        self._pattern.append(b"(?>")
        self._element(element, comma)
        self._end_segment()
        self._pattern.append(b"|)")
        self._optional = around

    def _element(self, element: _Element, comma: str) -> None:
        self._literal(element.announced)
        self._text.append(comma + element.before)
        if element.kind == STRING:
            self._string()
        elif element.kind == DOCUMENT:
            self._document(element.inner, "{", "}")
        elif element.kind == ARRAY:
            self._document(element.inner, "[", "]")
        elif element.size:
            self._column(self._value(element.code, element.size), element.column)
        self._text.append(element.after)

    def _string(self) -> None:
        length = self._value("i", 4)
        self._end_group()
        self._pattern.append(rb"([^\0]*+\0)(")
        for document in self._around:
            document.groups.append(self._groups)
        self._groups += 2
        string, self._values = self._values, self._values + 1
        segment = self._open_segment()
        segment.string_lengths.append((length, string))
        self._text.append('"')
        self._column(string, string_column)
        self._text.append('"')

    def _column(self, value: int, write: Column) -> None:
        self._open_segment().columns.append((value, write))
        self._text.append(_GAP)

    def _literal(self, raw: bytes) -> None:
        self._bytes(re.escape(raw), f"{len(raw)}x", len(raw))

    def _value(self, code: str, size: int) -> int:
        """Note a value of fixed size; return its number in the segment."""
        self._bytes(b".{%d}" % size, code, size)
        self._values += 1
        return self._values - 1

    def _bytes(self, pattern: bytes, code: str, size: int) -> None:
        self._open_segment()
        self._pattern.append(pattern)
        self._codes.append(code)
        group = self._groups - 1
        for document in self._around:
            if document.optional == self._optional:
                document.constant += size
            elif group not in document.groups:
                document.groups.append(group)

    def _open_segment(self) -> Segment:
        if self._segment is None:
            self._segment = Segment(slice(self._groups, self._groups))
            self._segments.append(self._segment)
            self._pattern.append(b"(")
            self._groups += 1
            self._text, self._values = [], 0
        return self._segment

    def _end_group(self) -> None:
        self._pattern.append(b")")
        reads = any(not code.endswith("x") for code in self._codes)
        self._open_segment().layouts.append(Struct("<" + "".join(self._codes)) if reads else None)
        self._codes = []

    def _end_segment(self) -> None:
        if self._segment is not None:
            self._end_group()
            self._segment.groups = slice(self._segment.groups.start, self._groups)
            self._segment.between = "".join(self._text).encode().split(_GAP.encode())
            self._segment = None
