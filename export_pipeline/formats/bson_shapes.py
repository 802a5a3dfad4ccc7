"""The fast path: documents of a collection, taken apart by one regular expression and written column by column.

Documents of a collection share types, names and nesting; what differs is values, and fields that some of them lack.
``bson_form`` makes the expression from a sample of them. What it finds in some hundred documents is then written by a
few calls of ``struct``, ``orjson`` and ``join`` for each field, in about a third of the walker's time.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress, islice, repeat
from struct import Struct
from typing import Any

import orjson

MAYBE_FIRST = "\1"
"""Stands before the comma of a member that may be its document's first, to go with it; JSON has no such character."""

Group = tuple[bytes, ...]
"""What one group of the pattern has found in each of many documents."""

Column = Callable[[Sequence[Any]], list[bytes]]
"""Writes the values of one field in many documents."""


class _DiffersError(Exception):
    """Documents that look like the shape are not of it."""


# Columns. Each writes exactly what the walker writes for each of the values.


def string_column(values: Sequence[bytes]) -> list[bytes]:
    """Write strings, each ended by a zero byte, as what stands between the quotes."""
    text = b"".join(values).decode()
    escaped = orjson.dumps(text)[1:-1]
    if b"\\\\" in escaped:
        # Backslashes in the text itself: one before "u0000" would look like an end.
        return [orjson.dumps(string)[1:-1] for string in text.split("\0")[:-1]]
    return escaped.split(b"\\u0000")[:-1]


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
    """A stretch of the pattern that a document has or lacks as a whole, and how to write it.

    Its groups alternate between what lies around the strings, which ``layouts`` read, and the strings, each with the
    zero byte that ends it.
    """

    groups: slice
    layouts: list[Struct | None] = field(default_factory=list)
    string_lengths: list[tuple[int, int]] = field(default_factory=list)
    """Values that are the length of another value, a string."""
    columns: list[tuple[int, Column]] = field(default_factory=list)
    """Which value to write and how, in the order of the JSON."""
    between: list[bytes] = field(default_factory=list)
    """The JSON around and between the columns."""

    def values(self, groups: list[Group]) -> list[tuple[Any, ...]]:
        """Return the values in the segment's groups. Raises _DiffersError where the length of a string is another."""
        values: list[tuple[Any, ...]] = []
        for i, group in enumerate(groups):
            if i % 2:
                values.append(group)
            elif layout := self.layouts[i // 2]:
                values += zip(*layout.iter_unpack(b"".join(group)), strict=True)
        for length, string in self.string_lengths:
            if values[length] != tuple(map(len, values[string])):
                raise _DiffersError
        return values

    def pieces(self, values: list[tuple[Any, ...]]) -> list[Iterable[bytes]]:
        """Return the segment's JSON in pieces, each an iterable over the documents."""
        pieces: list[Iterable[bytes]] = [repeat(self.between[0])]
        for (source, write), after in zip(self.columns, self.between[1:], strict=True):
            pieces += write(values[source]), repeat(after)
        return pieces


@dataclass(slots=True)
class Length:
    """The length that a document or array begins with: which value of which segment it is, and what it has to be."""

    optional: int
    """The optional element that it is in, or 0; bytes in the same one add to ``constant``."""
    segment: int = 0
    value: int = 0
    constant: int = 0
    groups: list[int] = field(default_factory=list)
    """The groups inside whose size varies: strings, and what lies in optional elements inside."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A form made ready for use.

    ``match`` takes a document apart; ``lines`` writes many that were.
    """

    match: Callable[[bytes, int], re.Match[bytes] | None]
    segments: list[Segment]
    lengths: list[Length]
    marked: bool
    """Whether MAYBE_FIRST is in the text."""

    def lines(self, documents: list[tuple[bytes, ...]]) -> list[bytes] | None:
        """Return the JSON of documents, each given by the groups of its match, with b"" for what it lacks.

        Returns None unless every length agrees with what the pattern has found and all strings are UTF-8. Then, and
        only then, the documents are what they look like: each of their other bytes is in the pattern or is a value.
        """
        groups: list[Group] = list(zip(*documents, strict=True))
        values: list[list[tuple[Any, ...]]] = []
        pieces: list[Iterable[bytes]] = []
        try:
            for segment in self.segments:
                own = groups[segment.groups]
                present = own[0]
                if all(present):
                    values.append(segment.values(own))
                    pieces += segment.pieces(values[-1])
                elif any(present):
                    values.append(segment.values([tuple(compress(group, present)) for group in own]))
                    texts = map(b"".join, zip(*segment.pieces(values[-1])))  # noqa: B905 - some repeat without end
                    pieces.append([next(texts) if one else b"" for one in present])
                else:
                    values.append([])
            self._check_lengths(groups, values)
        except (KeyError, UnicodeDecodeError, _DiffersError):
            return None
        lines = map(b"".join, islice(zip(*pieces), len(documents)))  # noqa: B905 - some repeat without end
        if not self.marked:
            return list(lines)
        mark = MAYBE_FIRST.encode()
        return [line.replace(mark + b",", b"").replace(mark, b"") for line in lines]

    def _check_lengths(self, groups: list[Group], values: list[list[tuple[Any, ...]]]) -> None:
        sizes = {i: tuple(map(len, groups[i])) for i in {i for length in self.lengths for i in length.groups}}
        for length in self.lengths:
            if found := values[length.segment]:
                present = groups[self.segments[length.segment].groups.start]
                constant = repeat(length.constant, len(present))
                expected = map(sum, zip(constant, *(sizes[i] for i in length.groups), strict=True))
                if found[length.value] != tuple(compress(expected, present)):
                    raise _DiffersError
