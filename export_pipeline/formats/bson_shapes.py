"""The fast path: documents of a collection, taken apart by one regular expression and written column by column.

Documents of a collection share types, names and nesting; what differs is values, and fields that some of them lack.
``bson_form`` makes the expression from a sample of them. What it finds in some hundred documents is then read by a
few calls of ``struct``, and written by a few of ``orjson`` and ``join`` for each field, in a third of the
walker's time.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, compress, islice, repeat
from struct import Struct
from typing import Any, NamedTuple

import orjson

MAYBE_FIRST = "\1"
"""Stands before the comma of a member that may be its document's first, to go with it; JSON has no such character."""

_ESCAPE = len("\\u0000") - len("\0")

Group = tuple[bytes, ...]
"""What one group of the pattern has found in each of many documents."""

Column = Callable[[Sequence[Any]], Sequence[bytes]]
"""Writes the values of one field in many documents."""


class DiffersError(Exception):
    """Documents that look like the shape are not of it."""


# Columns. Each writes exactly what the walker writes for each of the values.


def _strings(values: Group) -> Sequence[bytes]:
    """Write strings up to their closing quote, for which the zero byte that ends each of them stands."""
    joined = b"".join(values)
    text = joined.decode()
    if len(orjson.dumps(text)) == len(joined) + len(values) * _ESCAPE + len('""'):
        return values  # nothing but those zero bytes was escaped: the usual case, and the fastest
    return [orjson.dumps(string)[1:-1] + b"\0" for string in text.split("\0")[:-1]]


def _one_by_one(text: Callable[[Any], str], values: Sequence[Any]) -> list[bytes]:
    return "\n".join(map(text, values)).encode().split(b"\n")


def _integers(values: Sequence[int]) -> list[bytes]:
    return orjson.dumps(values)[1:-1].split(b",")


def _doubles(text: Callable[[float], str], values: Sequence[float]) -> list[bytes]:
    """Write doubles; plain ones, whose text needs no care, in one go."""
    joined = orjson.dumps(values)
    return _one_by_one(text, values) if b"n" in joined or b"e" in joined else joined[1:-1].split(b",")


@cache
def column(code: str, text: Callable[[Any], str]) -> Column:
    """Return the column for values that struct reads by ``code`` and the walker writes by ``text``."""
    if text is str:
        return _integers
    return partial(_doubles if code == "d" else _one_by_one, text)


@dataclass(slots=True)
class Segment:
    """A stretch of the pattern that a document has or lacks as a whole."""

    first: int
    """Which group of the pattern is its first."""
    fixed: list[int] = field(default_factory=list)
    """Which of its groups hold values of fixed size, and what announces them."""
    sized: list[int] = field(default_factory=list)
    """Which of its groups are a value whose length stands before it: a string, or a document with all inside."""
    layout: Struct = field(default_factory=lambda: Struct("<"))
    """Reads the fixed groups of a document, end to end."""
    lengths: list[tuple[int, int]] = field(default_factory=list)
    """Which fixed value is the length of which sized one."""

    def own(self, groups: list[Group]) -> list[Group]:
        """Return those of the pattern's groups that are the segment's; b"" stands for a document that lacks it."""
        return groups[self.first : self.first + len(self.fixed) + len(self.sized)]

    def read(self, own: list[Group]) -> "Values":
        """Return the segment's values. Raises DiffersError."""
        fixed_groups = chain.from_iterable(zip(*[own[i] for i in self.fixed], strict=True))
        fixed = list(zip(*self.layout.iter_unpack(b"".join(fixed_groups)), strict=True))
        sized = [own[i] for i in self.sized]
        for length, value in self.lengths:
            if fixed[length] != tuple(map(len, sized[value])):
                raise DiffersError
        return Values(fixed, sized)


@dataclass(slots=True)
class Values:
    """What a segment holds in those documents that have it."""

    fixed: list[tuple[Any, ...]]
    sized: list[Group]
    """Strings with the zero byte that ends them; documents whole."""
    present: Group | None = None
    """For all documents, b"" where one lacks the segment; None where none does."""
    _texts: dict[tuple[int, Column | None], Sequence[bytes]] = field(default_factory=dict)

    def text(self, value: int, write: Column | None) -> Sequence[bytes]:
        """Return a fixed value as ``write`` writes it, or a string; once for all the texts that it is in."""
        key = value, write
        if key not in self._texts:
            self._texts[key] = write(self.fixed[value]) if write else _strings(self.sized[value])
        return self._texts[key]


@dataclass(frozen=True, slots=True)
class Taken:
    """Documents taken apart."""

    count: int
    segments: list[Values | None]
    """None stands for a segment that no document has."""


class Part(NamedTuple):
    """How to write what is in one segment."""

    segment: int
    columns: list[tuple[int, Column | None]]
    """In the order of the JSON: which fixed value and how to write it, or which sized one, a string, and None."""
    between: list[bytes]
    """The JSON around and between the columns."""

    def pieces(self, values: Values) -> list[Iterable[bytes]]:
        """Return the JSON in pieces, each an iterable over the documents that have the segment."""
        pieces: list[Iterable[bytes]] = [repeat(self.between[0])]
        for (value, write), after in zip(self.columns, self.between[1:], strict=True):
            pieces += values.text(value, write), repeat(after)
        return pieces


@dataclass(frozen=True, slots=True)
class Text:
    """The JSON of documents, or of one of their fields."""

    parts: list[Part]
    marked: bool
    """Whether MAYBE_FIRST is in the text."""

    def lines(self, taken: Taken) -> list[bytes]:
        """Return the JSON of each document, b"" for those that lack the field.

        Raises KeyError or UnicodeDecodeError for values that BSON does not have.
        """
        pieces: list[Iterable[bytes]] = []
        for part in self.parts:
            values = taken.segments[part.segment]
            if values is None:
                continue
            if values.present is None:
                pieces += part.pieces(values)
            else:
                count = taken.count - values.present.count(b"")
                pieces.append(spread(_joined(part.pieces(values), count), values.present, b""))
        if not pieces:
            return [b""] * taken.count
        # JSON has no line breaks, so all lines can be seen to at once.
        text = b"\n".join(_joined(pieces, taken.count)).replace(b"\0", b'"')
        if self.marked:
            mark = MAYBE_FIRST.encode()
            text = text.replace(mark + b",", b"").replace(mark, b"")
        return text.split(b"\n")


class Member(NamedTuple):
    """A field of the documents, or an item of an array, and where a shape finds it."""

    announced: bytes
    """Its type and name, and what of its value is always the same."""
    segment: int
    value: int
    """Which of the segment's values: a sized one of a string or a document, else a fixed one; -1 if it is constant."""
    maybe: bool
    """Whether some of the documents that it is in lack it."""
    inner: "list[Member]"
    end: int
    """In which segment it ends."""

    @property
    def kind(self) -> int:
        """Its BSON type."""
        return self.announced[0]

    @property
    def name(self) -> bytes:
        """Its name."""
        return self.announced[1:].partition(b"\0")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A form made ready for use.

    ``pattern`` takes a document apart, and so does ``match``, which it is compiled to; ``take`` reads many that were,
    ``lines`` writes them.
    """

    pattern: bytes
    match: Callable[[bytes, int], re.Match[bytes] | None]
    segments: list[Segment]
    document: Member
    text: Text

    def take(self, documents: list[tuple[bytes, ...]]) -> Taken:
        """Read documents, each given by the groups of its match, with b"" for what it lacks.

        Raises DiffersError unless every length agrees with what the pattern has found. Where, in addition, all strings
        are UTF-8 and booleans 0 or 1, and only then, the documents are what they look like: each of their other bytes
        is in the pattern or is a value.
        """
        groups: list[Group] = list(zip(*documents, strict=True))
        taken: list[Values | None] = []
        for segment in self.segments:
            own = segment.own(groups)
            lacking = own[0].count(b"")
            if not lacking:
                taken.append(segment.read(own))
            elif lacking < len(documents):
                values = segment.read([tuple(compress(group, own[0])) for group in own])
                values.present = own[0]
                taken.append(values)
            else:
                taken.append(None)
        return Taken(len(documents), taken)

    def lines(self, documents: list[tuple[bytes, ...]]) -> list[bytes] | None:
        """Return the JSON of documents given as for ``take``, or None unless they are what they look like."""
        try:
            return self.text.lines(self.take(documents))
        except (KeyError, UnicodeDecodeError, DiffersError):
            return None


def _joined(pieces: list[Iterable[bytes]], count: int) -> Iterable[bytes]:
    return map(b"".join, islice(zip(*pieces), count))  # noqa: B905 - what stands between columns repeats without end


def spread(values: Iterable[Any], present: Group, lacking: Any) -> list[Any]:
    """Return values at the places of the documents that have them, and ``lacking`` elsewhere."""
    found = [lacking] * len(present)
    for place, value in zip(compress(range(len(present)), present), values, strict=True):
        found[place] = value
    return found
