"""What the documents of a collection have in common, learned from a sample of them.

A ``Form`` takes documents in, one after the other, and makes the ``Shape`` that takes apart all that are like them.
"""

import re
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from struct import Struct

from export_pipeline.formats.bson_shapes import MAYBE_FIRST, Column, Segment, Shape, column
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
    seen: int = 0
    """In which of the documents seen it was: a bit for each."""
    inner: list["_Element"] = field(default_factory=list)


class Form:
    """All that the documents seen so far have, in an order that fits them all, and what some of them lack."""

    def __init__(self, mode: Mode, tag: str | None) -> None:
        self._mode: Mode = mode
        self._tag = tag
        self._elements: list[_Element] = []
        self._size = 0
        self._documents = 0

    def learn(self, data: bytes, start: int) -> None:
        """Take in the valid document at ``start``.

        Raises NotWorthItError. What is known by then stays: where a shape expects too much, it only fits less.
        """
        self._documents += 1
        self._merge(self._elements, data, start, tables(self._mode).named)

    def shape(self) -> Shape:
        """Return the shape of the documents seen."""
        return _Compiler().compile(self._elements, (1 << self._documents) - 1, self._tag)

    def _merge(self, known: list[_Element], data: bytes, start: int, fields: Fields, level: int = 0) -> None:
        position, end, cursor = start + 4, _end(data, start) - 1, 0
        while position < end:
            element, value, position = _read(data, position, fields)
            name, _, _ = element.announced[1:].partition(b"\0")
            if level == 0 and self._tag is not None and is_like_tag(name):
                raise NotWorthItError
            places = (i for i in range(cursor, len(known)) if known[i].announced == element.announced)
            place = next(places, None)
            if place is None:
                if self._size == _MOST_ELEMENTS or level == _MOST_LEVELS:
                    raise NotWorthItError
                self._size += 1
                place = cursor
                known.insert(place, element)
            known[place].seen |= 1 << self._documents - 1
            cursor = place + 1
            if element.kind in (DOCUMENT, ARRAY):
                _, named, items = tables(self._mode)
                inner = items if element.kind == ARRAY else named
                self._merge(known[place].inner, data, value, inner, level + 1)


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
        self._marked = False
        # Of the segment that is being made, if one is: its text, how struct reads its fixed groups, their values.
        self._segment: Segment | None = None
        self._text: list[str] = []
        self._codes: list[str] = []
        self._values = 0
        self._in_fixed_group = False

    def compile(self, elements: list[_Element], seen: int, tag: str | None) -> Shape:
        self._document(elements, seen, "{", "}", tag)
        self._end_segment()
        match = re.compile(b"".join(self._pattern), re.DOTALL).match
        return Shape(match, self._segments, self._marked)

    def _document(
        self, elements: list[_Element], seen: int, opening: str, closing: str, tag: str | None = None
    ) -> None:
        document = self._begin_sized(b"(")
        self._open_segment().lengths.append((self._fixed("i", 4), document))
        self._text.append(opening)
        comma = ""
        if tag is not None:
            self._text.append(tag)
            comma = ","
        elif elements and elements[0].seen != seen:
            self._text.append(MAYBE_FIRST)
            self._marked = True
            comma = ","
        # Neighbours that always came together are had or lacked together.
        for seen_in, together in groupby(elements, attrgetter("seen")):
            if seen_in != seen:
                self._end_segment()
                # Atomic: what is found is not given back, or what does not fit would take long to turn down.
                self._pattern.append(b"(?>")
            for element in together:
                self._element(element, comma)
                comma = ","
            if seen_in != seen:
                self._end_segment()
                self._pattern.append(b"|)")
        self._literal(b"\0")
        self._end_fixed_group()
        self._pattern.append(b")")
        self._text.append(closing)

    def _element(self, element: _Element, comma: str) -> None:
        self._literal(element.announced)
        self._text.append(comma + element.before)
        if element.kind == STRING:
            length = self._fixed("i", 4)
            string = self._begin_sized(rb"([^\0]*+\0)")
            self._open_segment().lengths.append((length, string))
            self._column(string, None, f'"{_GAP}')
        elif element.kind == DOCUMENT:
            self._document(element.inner, element.seen, "{", "}")
        elif element.kind == ARRAY:
            self._document(element.inner, element.seen, "[", "]")
        elif element.size:
            self._column(self._fixed(element.code, element.size), element.column, _GAP)
        self._text.append(element.after)

    def _column(self, value: int, write: Column | None, text: str) -> None:
        self._open_segment().columns.append((value, write))
        self._text.append(text)

    def _literal(self, raw: bytes) -> None:
        self._in_fixed(re.escape(raw), f"{len(raw)}x")

    def _fixed(self, code: str, size: int) -> int:
        """Note a value of fixed size; return which it is of the segment's."""
        self._in_fixed(b".{%d}" % size, code)
        self._values += 1
        return self._values - 1

    def _in_fixed(self, pattern: bytes, code: str) -> None:
        if not self._in_fixed_group:
            self._begin_group(self._open_segment().fixed)
            self._pattern.append(b"(")
            self._in_fixed_group = True
        self._pattern.append(pattern)
        self._codes.append(code)

    def _end_fixed_group(self) -> None:
        if self._in_fixed_group:
            self._pattern.append(b")")
            self._in_fixed_group = False

    def _begin_sized(self, pattern: bytes) -> int:
        """Begin a group that is a string or a document; return which it is of the segment's."""
        self._end_fixed_group()
        self._pattern.append(pattern)
        self._begin_group(self._open_segment().sized)
        return len(self._open_segment().sized) - 1

    def _begin_group(self, kind: list[int]) -> None:
        kind.append(self._groups - self._open_segment().first)
        self._groups += 1

    def _open_segment(self) -> Segment:
        if self._segment is None:
            self._segment = Segment(self._groups)
            self._segments.append(self._segment)
            self._text, self._codes, self._values = [], [], 0
        return self._segment

    def _end_segment(self) -> None:
        self._end_fixed_group()
        if self._segment is not None:
            self._segment.layout = Struct("<" + "".join(self._codes))
            self._segment.between = "".join(self._text).encode().split(_GAP.encode())
            self._segment = None
