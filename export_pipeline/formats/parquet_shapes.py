"""The fast path to a collection's columns: from what a shape has taken documents apart into, column by column.

The shape is learned by the survey, so nearly all documents fit. ``parquet_columns`` walks the others.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

from export_pipeline.formats.bson_fields import EXACT_IN_DOUBLE, YEAR_1, YEAR_10000
from export_pipeline.formats.bson_form import member_text
from export_pipeline.formats.bson_shapes import DiffersError, Member, Shape, Taken, spread
from export_pipeline.formats.bson_walk import STRING
from export_pipeline.formats.parquet_schema import Column, ColumnType

_DOUBLE, _OBJECT_ID, _BOOL, _DATE, _NULL, _LONG = 0x01, 0x07, 0x08, 0x09, 0x0A, 0x12

Values = Sequence[Any]
"""Of a column: one for each document, None where it is null."""

_Read = Callable[[Taken], Values | None]
"""Makes the values of one column or of one member of the shape; None where all would be null."""


class ShapeColumns:
    """Makes columns of documents that are like a shape."""

    def __init__(self, shape: Shape, columns: Sequence[Column], *, lossless: bool) -> None:
        self._shape = shape
        self._lossless = lossless
        # The other choice takes the rest of the data, so that finding all goes no further than the first misfit.
        self._find = re.compile(b"%b|.++" % shape.pattern, re.DOTALL).findall
        members: dict[bytes, list[Member]] = {}
        for member in shape.document.inner:
            members.setdefault(member.name, []).append(member)
        self._read = [
            (column.label, _column(column, members[column.name])) for column in columns if column.name in members
        ]

    def fitting(self, data: bytes, start: int, stop: int) -> list[tuple[bytes, ...]]:
        """Take apart the documents from ``start`` on, as many as are like the shape before the first that is not."""
        found: list[tuple[bytes, ...]] = self._find(data, start, stop)
        if found and not found[-1][0]:
            found.pop()
        return found

    def columns(self, documents: list[tuple[bytes, ...]]) -> dict[str, Values]:
        """Return the columns, by label, of documents that were taken apart; without those that are all null.

        Raises DiffersError where some only seemed to be like the shape.
        """
        try:
            taken = self._shape.take(documents)
            made = {label: values for label, read in self._read if (values := read(taken)) is not None}
            if self._lossless:
                made["_doc"] = self._shape.text.lines(taken)
        except (KeyError, UnicodeDecodeError):
            raise DiffersError from None
        return made


def _column(column: Column, members: list[Member]) -> _Read:
    """Return what makes a column of a field that documents have as one of ``members``."""
    reads = [_member(column.type_, member) for member in members]
    if len(reads) == 1:
        return reads[0]

    def merged(taken: Taken) -> Values | None:
        if max(map(sum, zip(*[_presence(taken, member) for member in members], strict=True))) > 1:
            raise DiffersError  # one document has several fields of the name
        found = [values for read in reads if (values := read(taken)) is not None]
        return reduce(_either, found) if found else None

    return merged


def _either(values: Values, others: Values) -> Values:
    return [other if value is None else value for value, other in zip(values, others, strict=True)]


def _presence(taken: Taken, member: Member) -> Iterable[bool]:
    values = taken.segments[member.segment]
    if values is None:
        return [False] * taken.count
    return [True] * taken.count if values.present is None else map(bool, values.present)


def _member(type_: ColumnType, member: Member) -> _Read:
    if member.kind == _NULL:
        return lambda _: None
    if type_ == "text" and member.kind in (STRING, _OBJECT_ID):
        type_ = "string" if member.kind == STRING else "objectid"
    if type_ in ("json", "text"):
        return _json(member)
    convert = _converter(type_, member.kind)

    def read(taken: Taken) -> Values | None:
        values = taken.segments[member.segment]
        if values is None:
            return None
        stored = (values.sized if member.kind == STRING else values.fixed)[member.value]
        converted = convert(stored) if convert else stored
        return converted if values.present is None else spread(converted, values.present, None)

    return read


def _json(member: Member) -> _Read:
    text = member_text(member, "relaxed")

    def read(taken: Taken) -> Values | None:
        values = taken.segments[member.segment]
        if values is None:
            return None
        lines = text.lines(taken)
        return lines if values.present is None else [line or None for line in lines]

    return read


def _converter(type_: ColumnType, kind: int) -> Callable[[Sequence[Any]], Sequence[Any]] | None:
    """Return what must be done to values of a BSON type to put them into a column; it raises DiffersError."""
    if kind == STRING:
        return _strings
    if kind == _OBJECT_ID:
        return _hexadecimal
    # What the survey has seen is within these. Bytes inside a string can look like a field that it has not.
    limits = {_BOOL: (0, 1), _DATE: (YEAR_1, YEAR_10000 - 1)}
    if type_ == "double":
        limits[_LONG] = (-EXACT_IN_DOUBLE, EXACT_IN_DOUBLE - 1)
    return _within(*limits[kind]) if kind in limits else None


def _within(least: int, most: int) -> Callable[[Sequence[int]], Sequence[int]]:
    def checked(values: Sequence[int]) -> Sequence[int]:
        if min(values) < least or max(values) > most:
            raise DiffersError
        return values

    return checked


def _strings(values: Sequence[bytes]) -> list[bytes]:
    """Return strings without the zero byte that ends each of them."""
    joined = b"".join(values)
    joined.decode()
    return joined.split(b"\0")[:-1]


def _hexadecimal(values: Sequence[bytes]) -> list[bytes]:
    digits = b"".join(values).hex().encode()
    return [digits[place : place + 24] for place in range(0, len(digits), 24)]
