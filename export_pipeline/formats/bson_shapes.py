"""The fast path: documents of a collection, taken apart by one regular expression and written column by column.

Documents of a collection share types, names and nesting; what differs is values, and fields that some of them lack.
``bson_form`` makes the expression from a sample of them. What it finds in some hundred documents is then written by a
few calls of ``struct``, ``orjson`` and ``join`` for each field, in about a third of the walker's time.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, compress, islice, repeat
from struct import Struct
from typing import Any

import orjson

MAYBE_FIRST = "\1"
"""Stands before the comma of a member that may be its document's first, to go with it; JSON has no such character."""

_ESCAPE = len("\\u0000") - len("\0")

Group = tuple[bytes, ...]
"""What one group of the pattern has found in each of many documents."""

Column = Callable[[Sequence[Any]], Sequence[bytes]]
"""Writes the values of one field in many documents."""


class _DiffersError(Exception):
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


def column(code: str, text: Callable[[Any], str]) -> Column:
    """Return the column for values that struct reads by ``code`` and the walker writes by ``text``."""
    if text is str:
        return _integers
    return partial(_doubles if code == "d" else _one_by_one, text)


@dataclass(slots=True)
class Segment:
    """A stretch of the pattern that a document has or lacks as a whole, and how to write it."""

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
    columns: list[tuple[int, Column | None]] = field(default_factory=list)
    """In the order of the JSON: which fixed value and how to write it, or which sized one, a string, and None."""
    between: list[bytes] = field(default_factory=list)
    """The JSON around and between the columns."""

    def own(self, groups: list[Group]) -> list[Group]:
        """Return those of the pattern's groups that are the segment's; b"" stands for a document that lacks it."""
        return groups[self.first : self.first + len(self.fixed) + len(self.sized)]

    def pieces(self, own: list[Group]) -> list[Iterable[bytes]]:
        """Return the segment's JSON in pieces, each an iterable over the documents. Raises _DiffersError."""
        fixed_groups = chain.from_iterable(zip(*[own[i] for i in self.fixed], strict=True))
        fixed = list(zip(*self.layout.iter_unpack(b"".join(fixed_groups)), strict=True))
        sized = [own[i] for i in self.sized]
        for length, value in self.lengths:
            if fixed[length] != tuple(map(len, sized[value])):
                raise _DiffersError
        pieces: list[Iterable[bytes]] = [repeat(self.between[0])]
        for (value, write), after in zip(self.columns, self.between[1:], strict=True):
            pieces += write(fixed[value]) if write else _strings(sized[value]), repeat(after)
        return pieces


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A form made ready for use.

    ``match`` takes a document apart; ``lines`` writes many that were.
    """

    match: Callable[[bytes, int], re.Match[bytes] | None]
    segments: list[Segment]
    marked: bool
    """Whether MAYBE_FIRST is in the text."""

    def lines(self, documents: list[tuple[bytes, ...]]) -> list[bytes] | None:
        """Return the JSON of documents, each given by the groups of its match, with b"" for what it lacks.

        Returns None unless every length agrees with what the pattern has found and all strings are UTF-8. Then, and
        only then, the documents are what they look like: each of their other bytes is in the pattern or is a value.
        """
        count = len(documents)
        groups: list[Group] = list(zip(*documents, strict=True))
        pieces: list[Iterable[bytes]] = []
        try:
            for segment in self.segments:
                own = segment.own(groups)
                lacking = own[0].count(b"")
                if not lacking:
                    pieces += segment.pieces(own)
                elif lacking < count:
                    texts = segment.pieces([tuple(compress(group, own[0])) for group in own])
                    pieces.append(_spread(_joined(texts, count - lacking), own[0]))
        except (KeyError, UnicodeDecodeError, _DiffersError):
            return None
        lines = [line.replace(b"\0", b'"') for line in _joined(pieces, count)]
        if self.marked:
            mark = MAYBE_FIRST.encode()
            lines = [line.replace(mark + b",", b"").replace(mark, b"") for line in lines]
        return lines


def _joined(pieces: list[Iterable[bytes]], count: int) -> Iterable[bytes]:
    return map(b"".join, islice(zip(*pieces), count))  # noqa: B905 - what stands between columns repeats without end


def _spread(texts: Iterable[bytes], present: Group) -> list[bytes]:
    """Return the texts at the places of the documents that have them, and b"" elsewhere."""
    spread = [b""] * len(present)
    for place, text in zip(compress(range(len(present)), present), texts, strict=True):
        spread[place] = text
    return spread
