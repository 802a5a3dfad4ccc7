"""What the documents of a collection have in common, learned from a sample of them.

A ``Form`` takes documents in, one after the other, and makes the ``Shape`` that takes apart all that are like them,
or the ``outline`` that only recognizes them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from struct import Struct

from export_pipeline.formats.bson_shapes import MAYBE_FIRST, Column, Member, Part, Segment, Shape, Text, column
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
    """A member of the documents seen: the bytes that announce it and its value, and what is inside."""

    announced: bytes
    kind: int
    code: str
    size: int
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
        pattern, segments, document = _Compiler().compile(self._elements, self._seen)
        match = re.compile(pattern, re.DOTALL).match
        return Shape(pattern, match, segments, document, _text(document, self._mode, self._tag))

    def outline(self, value: Callable[[int, bytes], bytes | None]) -> bytes:
        """Return a regular expression, without groups, for documents like those seen. It does not look at lengths.

        ``value`` may give, for the type and the name of a field at the top, what its values of fixed size must match.
        """
        return _outline(self._elements, self._seen, value)

    @property
    def _seen(self) -> int:
        return (1 << self._documents) - 1

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
    kind, _, _, read, size, _, code = fields[data[start : value - 1]]
    element = _Element(data[start:value], kind, code, size)
    if read is not None:
        return element, value, value + size
    if kind == STRING:
        return element, value, value + 4 + _end(data, value) - value
    if kind in (DOCUMENT, ARRAY):
        return element, value, _end(data, value)
    if kind == BINARY:
        _, begin, end = binary_payload(data, value)
        if 0 < end - begin <= _LONGEST_BINARY:
            size = end - begin
            return _Element(data[start:begin], kind, f"{size}s", size), begin, end
    raise NotWorthItError


def _outline(elements: list[_Element], seen: int, value: Callable[[int, bytes], bytes | None]) -> bytes:
    pattern = [b"...."]
    for seen_in, together in groupby(elements, attrgetter("seen")):
        parts = [b"" if seen_in == seen else b"(?>"]
        for element in together:
            parts.append(re.escape(element.announced))
            if element.kind == STRING:
                parts.append(rb"....[^\0]*+\0")
            elif element.kind in (DOCUMENT, ARRAY):
                parts.append(_outline(element.inner, element.seen, lambda *_: None))
            elif element.size:
                name = element.announced[1:].partition(b"\0")[0]
                parts.append(value(element.kind, name) or b"." * element.size)
        parts.append(b"" if seen_in == seen else b"|)")
        pattern += parts
    return b"".join([*pattern, rb"\0"])


class _Compiler:
    """Goes over a form and notes what becomes of each byte of a document, and where each member is found."""

    def __init__(self) -> None:
        self._pattern: list[bytes] = []
        self._groups = 0
        self._segments: list[Segment] = []
        # Of the segment that is being made, if one is: how struct reads its fixed groups, and how many values they are.
        self._segment: Segment | None = None
        self._codes: list[str] = []
        self._values = 0
        self._in_fixed_group = False

    def compile(self, elements: list[_Element], seen: int) -> tuple[bytes, list[Segment], Member]:
        """Return the pattern, how to read what it finds, and where in that each member is."""
        segment = self._number()
        value, inner, end = self._document(elements, seen)
        self._end_segment()
        document = Member(b"%c\0" % DOCUMENT, segment, value, maybe=False, inner=inner, end=end)
        return b"".join(self._pattern), self._segments, document

    def _document(self, elements: list[_Element], seen: int) -> tuple[int, list[Member], int]:
        """Return which value the document is, its members, and in which segment it ends."""
        document = self._begin_sized(b"(")
        self._open_segment().lengths.append((self._fixed("i", 4), document))
        members: list[Member] = []
        # Neighbours that always came together are had or lacked together.
        for seen_in, together in groupby(elements, attrgetter("seen")):
            maybe = seen_in != seen
            if maybe:
                self._end_segment()
                # Atomic: what is found is not given back, or what does not fit would take long to turn down.
                self._pattern.append(b"(?>")
            members += [self._member(element, maybe=maybe) for element in together]
            if maybe:
                self._end_segment()
                self._pattern.append(b"|)")
        self._literal(b"\0")
        end = self._number()
        self._end_fixed_group()
        self._pattern.append(b")")
        return document, members, end

    def _member(self, element: _Element, *, maybe: bool) -> Member:
        self._literal(element.announced)
        segment, value, inner, end = self._number(), -1, list[Member](), self._number()
        if element.kind == STRING:
            length = self._fixed("i", 4)
            value = self._begin_sized(rb"([^\0]*+\0)")
            self._open_segment().lengths.append((length, value))
        elif element.kind in (DOCUMENT, ARRAY):
            value, inner, end = self._document(element.inner, element.seen)
        elif element.size:
            value = self._fixed(element.code, element.size)
        return Member(element.announced, segment, value, maybe, inner, end)

    def _literal(self, raw: bytes) -> None:
        self._in_fixed(re.escape(raw), f"{len(raw)}x")

    def _fixed(self, code: str, size: int) -> int:
        """Note a value of fixed size; return which it is of the segment's."""
        self._in_fixed(b"." * size, code)
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

    def _number(self) -> int:
        """Return which segment is being made."""
        self._open_segment()
        return len(self._segments) - 1

    def _open_segment(self) -> Segment:
        if self._segment is None:
            self._segment = Segment(self._groups)
            self._segments.append(self._segment)
            self._codes, self._values = [], 0
        return self._segment

    def _end_segment(self) -> None:
        self._end_fixed_group()
        if self._segment is not None:
            self._segment.layout = Struct("<" + "".join(self._codes))
            self._segment = None


def member_text(member: Member, mode: Mode) -> Text:
    """Return how the value of one member is written."""
    made = _Text(mode)
    made.member(member, "", tables(mode).items)
    return made.text()


def _text(document: Member, mode: Mode, tag: str | None) -> Text:
    made = _Text(mode)
    made.document(document, tag)
    return made.text()


class _Text:
    """Puts together how members of a shape are written."""

    def __init__(self, mode: Mode) -> None:
        self._mode: Mode = mode
        self._parts: dict[int, tuple[list[str], list[tuple[int, Column | None]]]] = {}
        self._marked = False

    def text(self) -> Text:
        parts = [
            Part(segment, columns, "".join(texts).encode().split(_GAP.encode()))
            for segment, (texts, columns) in self._parts.items()
        ]
        return Text(parts, self._marked)

    def document(self, document: Member, tag: str | None = None) -> None:
        _, named, items = tables(self._mode)
        opening, closing, fields = ("[", "]", items) if document.kind == ARRAY else ("{", "}", named)
        self._write(document.segment, opening)
        comma = ""
        if tag is not None:
            self._write(document.segment, tag)
            comma = ","
        elif document.inner and document.inner[0].maybe:
            self._write(document.segment, MAYBE_FIRST)
            self._marked = True
            comma = ","
        for member in document.inner:
            self.member(member, comma, fields)
            comma = ","
        self._write(document.end, closing)

    def member(self, member: Member, comma: str, fields: Fields) -> None:
        kind, before, after, _, size, text, code = fields[b"%c%b" % (member.kind, member.name)]
        self._write(member.segment, comma + before)
        if kind == STRING:
            self._column(member, None, f'"{_GAP}')
        elif kind in (DOCUMENT, ARRAY):
            self.document(member)
        elif kind == BINARY:
            opening, closing = binary_wrapper(_subtype(member))
            self._column(member, column("s", base64_text), opening + _GAP + closing)
        elif size:
            self._column(member, column(code, text), _GAP)
        self._write(member.end, after)

    def _column(self, member: Member, write: Column | None, text: str) -> None:
        self._write(member.segment, text)
        self._parts[member.segment][1].append((member.value, write))

    def _write(self, segment: int, text: str) -> None:
        self._parts.setdefault(segment, ([], []))[0].append(text)


def _subtype(binary: Member) -> int:
    """Return the subtype, which stands after the name and a length."""
    return binary.announced[len(binary.name) + 6]
