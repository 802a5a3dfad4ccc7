"""Documents of a collection taken apart into columns of raw values, hundreds at once, by one pattern for all of them.

``KnownFields`` learns from some documents which fields they have and in which order; ``Layout`` takes apart the
documents that are like those, and says of which it could not. Nothing is decoded here.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, pairwise
from struct import Struct, unpack
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says
from typing import NamedTuple

from export_pipeline.formats.bson_fields import ENDS, SIZES, TYPES, compiled, fields, groups, is_patterned, pattern
from export_pipeline.formats.bson_walk import DOCUMENT, STRING

MOST_FIELDS = 200
"""In a layout; beyond, trying them all takes longer than reading the document."""

LONGEST_NAME = 200
"""In bytes. Longer names are data."""

EMPTY_DOCUMENT = 5
"""Bytes."""

_KINDS = {TYPES[kind][0]: frozenset(other for other in TYPES if TYPES[other] == TYPES[kind]) for kind in TYPES}
"""The kinds of value that each BSON type has."""

_MISSING = 0
"""Stands for the type of what is not there."""

_uint32 = Struct("<I").unpack_from


class Part(NamedTuple):
    """Values of one BSON type in one column."""

    column: int
    type_: int
    values: Sequence[bytes]
    """As they are stored; of a string, its text alone."""
    places: Sequence[int] | None
    """Which of the documents hold them, in their order; None where all do."""


class LaidOutField(NamedTuple):
    """A field that documents of a layout may have."""

    name: bytes
    types: frozenset[int]
    column: int | None
    """None where only those of its inner fields are known."""
    inner: "tuple[LaidOutField, ...] | None"
    """Of embedded documents whose fields have columns of their own; None where all of it goes into one column."""


class KnownFields:
    """The fields of documents, in an order that fits most of them."""

    def __init__(self, *, dotted: bool, outer: "KnownFields | None" = None) -> None:
        self._dotted = dotted
        self._known: list[bytes] = [] if outer is None else outer._known  # noqa: SLF001 - it is of the same class
        """Names, those of all embedded documents included."""
        self._order: list[bytes] = []
        self._types: dict[bytes, set[int]] = {}
        self._inner: dict[bytes, KnownFields] = {}

    def learn(self, data: bytes, start: int, stop: int) -> None:
        """Learn from the document ``data[start:stop]``. Raises EncodingError for what is not one."""
        place = 0
        for found in fields(data, start, stop):
            name, type_ = found.name, data[found.begin]
            if name not in self._types:
                if len(self._known) >= MOST_FIELDS or len(name) > LONGEST_NAME:
                    continue
                self._known.append(name)
                self._order.insert(place, name)
                self._types[name] = set()
            self._types[name].add(type_)
            place = self._order.index(name) + 1
            if self._dotted and type_ == DOCUMENT and name != b"_id" and found.end - found.value > EMPTY_DOCUMENT:
                inner = self._inner.setdefault(name, KnownFields(dotted=False, outer=self))
                inner.learn(data, found.value, found.end)

    def laid_out(self, column_of: Callable[[tuple[bytes, ...]], int | None]) -> tuple[LaidOutField, ...]:
        """Return the fields with their columns, given by their paths; those that have none are left out."""
        taken = set[int]()

        def once(path: tuple[bytes, ...]) -> int | None:
            # Where two fields share a column, a document with both takes a closer look.
            column = column_of(path)
            if column is None or column in taken:
                return None
            taken.add(column)
            return column

        laid_out = []
        for name in self._order:
            column = once((name,))
            inner: tuple[LaidOutField, ...] | None = () if self._dotted and name != b"_id" else None
            if name in self._inner:
                inner = self._inner[name].laid_out(lambda path, name=name: once((name, *path)))  # type: ignore[misc]
            if column is not None or inner:
                laid_out.append(LaidOutField(name, frozenset(self._types[name]), column, inner))
        return tuple(laid_out)


class _Segment(NamedTuple):
    """A stretch of the pattern, and the field after it whose length must be read, if there is one."""

    match: Callable[[bytes, int, int], re.Match[bytes] | None] | None
    slots: list[tuple[int, int]]
    """The column and the type of what the pattern's groups capture; strings have two groups."""
    field: LaidOutField | None
    inner: "list[_Segment] | None"


def _segments(laid_out: Iterable[LaidOutField]) -> list[_Segment]:
    segments: list[_Segment] = []
    patterns: list[bytes] = []
    slots: list[tuple[int, int]] = []
    for field in laid_out:
        kinds = frozenset[str]().union(*(_KINDS[type_] for type_ in field.types))
        if not field.inner and field.column is not None and all(map(_is_captured, kinds)):
            patterns.append(pattern(field.name, kinds, capturing=True))
            slots += [(field.column, TYPES[kind][0]) for kind in groups(kinds) if kind != "null"]
            continue
        inner = None if field.inner is None else _segments(field.inner)
        segments.append(_Segment(compiled(patterns) if patterns else None, slots, field, inner))
        patterns, slots = [], []
    return [*segments, _Segment(compiled(patterns) if patterns else None, slots, None, None)]


def _is_captured(kind: str) -> bool:
    """Tell whether a pattern's groups tell such a value from none; null is as good as none."""
    return is_patterned(kind) and (SIZES.get(kind) != 0 or kind == "null")


class Layout:
    """Takes apart documents that have nothing but known fields, in the known order."""

    def __init__(self, laid_out: Iterable[LaidOutField]) -> None:
        self._segments = _segments(laid_out)

    def take(self, data: bytes, bounds: Sequence[int]) -> "Taken":
        """Take apart the documents between ``bounds``."""
        taken = Taken(self._segments)
        for number, (start, stop) in enumerate(pairwise(bounds)):
            if not taken.add(data, start, stop, number):
                taken.missed.append(number)
        if not taken.agrees():
            taken = Taken(self._segments)
            taken.missed.extend(range(len(bounds) - 1))
        return taken


class Taken:
    """What some documents were taken apart into."""

    def __init__(self, segments: Sequence[_Segment]) -> None:
        self.numbers: list[int] = []
        """Which documents these are."""
        self.missed: list[int] = []
        """Which are not of the layout."""
        self._segments = [_Found(segment) for segment in segments]
        self._steps = [found.step for found in self._segments]

    def add(self, data: bytes, start: int, stop: int, number: int) -> bool:
        """Take a document apart, if it fits. That strings have their lengths is for ``agrees`` to say."""
        position, last = start + 4, stop - 1
        fits = False
        try:
            for match, captured, name, types, opened, inner, is_held in self._steps:
                if match is not None:
                    found = match(data, position, last)
                    if found is None:
                        break
                    captured.append(found.groups(b""))
                    position = found.end()
                if not name:
                    fits = position == last and not data[last]
                    break
                if position == last or not data.startswith(name, position + 1):
                    types.append(_MISSING)
                    opened.append(b"")
                    continue
                type_, value = data[position], position + 1 + len(name)
                # As ENDS says; these are the most frequent.
                end = value + _uint32(data, value)[0] if type_ in (0x03, 0x04) else ENDS[type_](data, value)
                if inner is not None and type_ == DOCUMENT and end - value > EMPTY_DOCUMENT:
                    if not inner.add(data, value, end, len(self.numbers)):
                        break
                    types.append(_MISSING)
                    opened.append(b"")
                elif is_held:
                    types.append(type_)
                    opened.append(data[value:end])
                else:
                    break
                position = end
        except (IndexError, KeyError, ValueError, StructError):
            pass
        if fits:
            self.numbers.append(number)
        else:
            self.cut(len(self.numbers))
        return fits

    def cut(self, count: int) -> None:
        """Forget all but the first ``count`` documents."""
        for found in self._segments:
            del found.captured[count:], found.types[count:], found.opened[count:]
            if found.inner is not None:
                numbers = found.inner.numbers
                del numbers[bisect_left(numbers, count) :]
                found.inner.cut(len(numbers))
        del self.numbers[count:]

    def agrees(self) -> bool:
        """Tell whether each string is as long as it says.

        Then, and only then, the documents are what they look like: all their other bytes are in the pattern, or are
        values of the size that their type has.
        """
        inner_ones = (found.inner for found in self._segments if found.inner is not None)
        return all(found.agrees() for found in self._segments) and all(inner.agrees() for inner in inner_ones)

    def parts(self, places: Sequence[int] | None = None) -> Iterator[Part]:
        """Yield what was found; ``places`` are those of all these documents, where they are not simply in order."""
        for found in self._segments:
            yield from found.parts(places)
            inner = found.inner
            if inner is not None and inner.numbers:
                everywhere = len(inner.numbers) == len(self.numbers)
                yield from inner.parts(places if everywhere else _placed(inner.numbers, places))


class _Found:
    """What a segment has found in each of some documents; b"" where there was nothing."""

    def __init__(self, segment: _Segment) -> None:
        self._slots = segment.slots
        self._made: list[tuple[int, int, Sequence[bytes], Sequence[bytes]]] = []
        self._field = segment.field
        self.captured: list[tuple[bytes, ...]] = []
        self.types: list[int] = []
        """Of the values whose length had to be read."""
        self.opened: list[bytes] = []
        """Those values."""
        self.inner = None if segment.inner is None else Taken(segment.inner)
        name = b"" if segment.field is None else segment.field.name + b"\0"
        is_held = segment.field is not None and segment.field.column is not None
        self.step = (segment.match, self.captured, name, self.types, self.opened, self.inner, is_held)
        """What it takes to take a document apart."""

    def agrees(self) -> bool:
        """Tell whether each string is as long as it says."""
        return all(_agree(lengths, texts) for _, type_, lengths, texts in self._columns() if type_ == STRING)

    def parts(self, places: Sequence[int] | None) -> Iterator[Part]:
        """Yield what was found; see ``Taken.parts``."""
        for column, type_, present, values in self._columns():
            yield from _part(column, type_, present, values, places)
        column_opened = None if self._field is None else self._field.column
        if column_opened is not None:
            for type_ in sorted({*self.types} - {_MISSING}):
                yield from self._opened_part(column_opened, type_, places)

    def _opened_part(self, column: int, type_: int, places: Sequence[int] | None) -> Iterator[Part]:
        own = [type_ == other for other in self.types]
        values = self.opened
        if type_ == STRING:
            values = [
                value_of(STRING, value, 0, len(value)) if is_own else b""
                for is_own, value in zip(own, self.opened, strict=True)
            ]
        return _part(column, type_, own, values, places)

    def _columns(self) -> list[tuple[int, int, Sequence[bytes], Sequence[bytes]]]:
        """Return columns and types with what is b"" where there is no value, and the values."""
        if self.captured:
            found = iter(zip(*self.captured, strict=True))
            self.captured.clear()
            for column, type_ in self._slots:
                present = next(found)
                # Strings may be empty, their lengths are not.
                self._made.append((column, type_, present, next(found) if type_ == STRING else present))
        return self._made


def _agree(lengths: Sequence[bytes], texts: Sequence[bytes]) -> bool:
    stated = b"".join(lengths)
    found = texts if all(lengths) else list(compress(texts, lengths))
    return unpack(f"<{len(found)}I", stated) == tuple(map((1).__add__, map(len, found)))


def _part(
    column: int, type_: int, present: Sequence[object], values: Sequence[bytes], places: Sequence[int] | None
) -> Iterator[Part]:
    if all(present):
        yield Part(column, type_, values, places)
    elif any(present):
        at = list(compress(range(len(present)), present))
        yield Part(column, type_, list(compress(values, present)), _placed(at, places))


def _placed(numbers: Sequence[int], places: Sequence[int] | None) -> Sequence[int]:
    return numbers if places is None else [places[number] for number in numbers]


def value_of(type_: int, data: bytes, begin: int, end: int) -> bytes:
    """Return a value as a part holds it. Raises ValueError for a string that is none."""
    if type_ != STRING:
        return data[begin:end]
    if end < begin + 5 or data[end - 1]:
        raise ValueError
    return data[begin + 4 : end - 1]
