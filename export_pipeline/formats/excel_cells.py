"""Cells and rows of a worksheet as SpreadsheetML (ECMA-376, part 1, 18.3), a column at a time.

Numbers and dates are real ones where Excel can hold them, else text that says the same.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice, repeat
from typing import NamedTuple

from export_pipeline.errors import ExportPipelineError
from export_pipeline.formats.bson_walk import STRING
from export_pipeline.formats.cell_text import (
    Values,
    date_text,
    decimal_text,
    double_text,
    doubles,
    id_text,
    integer_text,
    integers,
    json_text,
    text,
)
from export_pipeline.formats.column_parts import Part

LONGEST_TEXT = 32_767
"""Of a cell, in UTF-16 units."""

_MILLISECONDS_OF_DAY = 86_400_000
_DAY_1970 = 25_569
_FIRST_DATE, _END_OF_DATES = -2_203_891_200_000, 253_402_300_800_000
"""1900-03-01, as Excel believes in a 29 February before it, and the year 10000; in milliseconds since 1970."""
_EXACT_INTEGERS = 1 << 53
_SMALLEST, _LARGEST = 2.2250738585072014e-308, 9.99e307
"""Of the numbers that Excel knows, but for zero."""

ROW = b"\0"
"""Stands for the row's number; XML has no zero byte."""


class LongTextError(ExportPipelineError):
    """A text is longer than a cell takes."""


class Kind(NamedTuple):
    """What stands around a value, after the cell's reference."""

    before: bytes
    after: bytes


TEXT = Kind(b'" t="inlineStr"><is><t>', b"</t></is></c>")
SPACED = Kind(b'" t="inlineStr"><is><t xml:space="preserve">', TEXT.after)
"""For text whose spaces XML readers might otherwise drop."""
HEADER = Kind(b'" s="1" t="inlineStr"><is><t xml:space="preserve">', TEXT.after)
NUMBER = Kind(b'"><v>', b"</v></c>")
DATE = Kind(b'" s="2"><v>', b"</v></c>")
BOOLEAN = Kind(b'" t="b"><v>', b"</v></c>")


class Cells(NamedTuple):
    """Cells of one kind in a column: what is in them, and which of the rows they are in; None: in all."""

    kind: Kind
    values: Values
    places: Sequence[int] | None


# Text

_ESCAPED = re.compile(rb"[&<>\0-\x08\x0b-\x1f]|_(?=x[0-9A-Fa-f]{4}_)|\xef\xbf[\xbe\xbf]")
"""What XML has no place for, or a meaning of its own, and what looks like the escapes (22.9.2.19, ST_Xstring)."""
_ENTITIES = {b"&": b"&amp;", b"<": b"&lt;", b">": b"&gt;"}
_RARE = b"&<>" + bytes(range(1, 0x20))
_WHITE = b" \t\n"


def escaped(value: bytes) -> bytes:
    r"""Return text as it stands in a cell.

    >>> escaped(b"a < b\1_x0041_")
    b'a &lt; b_x0001__x005F_x0041_'
    """
    return _ESCAPED.sub(lambda found: _ENTITIES.get(found[0]) or b"_x%04X_" % ord(found[0].decode()), value)


def unescaped(value: str) -> str:
    """Take back what Excel's files do to characters that XML has no place for."""
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), value)


def text_cells(values: Values, places: Sequence[int] | None) -> list[Cells]:
    """Return strings as cells; an empty one makes none. Raises UnicodeDecodeError and LongTextError."""
    values = text(values)
    longest = max(map(len, values))
    if longest > LONGEST_TEXT and any(len(value.decode().encode("utf-16-le")) > 2 * LONGEST_TEXT for value in values):
        raise LongTextError
    joined = b"\0" + b"\0".join(values) + b"\0"
    # The usual case is that no text is special, and looking at all of them together is the fastest.
    if not (
        b"\0\0" in joined
        or b"\0 " in joined
        or b" \0" in joined
        or b"_x" in joined
        or b"\xef\xbf" in joined
        or joined.count(b"\0") > len(values) + 1
        or len(joined.translate(None, _RARE)) < len(joined)
    ):
        return [Cells(TEXT, values, places)]
    kinds = [(SPACED if _has_spaces(value) else TEXT) if value else None for value in values]
    return _apart(kinds, list(map(escaped, values)), places)


def _has_spaces(value: bytes) -> bool:
    return value.strip(_WHITE) != value or b"\n" in value or b"\t" in value


def _apart(kinds: Sequence[Kind | None], values: Values, places: Sequence[int] | None) -> list[Cells]:
    """Return cells of several kinds apart; None makes no cell."""
    cells = []
    for kind in dict.fromkeys(kinds):
        if kind is not None:
            at = [number for number, other in enumerate(kinds) if other is kind]
            found = [values[number] for number in at]
            cells.append(Cells(kind, found, at if places is None else [places[number] for number in at]))
    return cells


# Numbers and dates


def _integer_cells(values: Values, places: Sequence[int] | None) -> list[Cells]:
    numbers, texts = integers(values), integer_text(values)
    if max(numbers) <= _EXACT_INTEGERS and min(numbers) >= -_EXACT_INTEGERS:
        return [Cells(NUMBER, texts, places)]
    return _apart([NUMBER if abs(number) <= _EXACT_INTEGERS else TEXT for number in numbers], texts, places)


def _double_cells(values: Values, places: Sequence[int] | None) -> list[Cells]:
    return _apart_or_all([_is_number(number) for number in doubles(values)], double_text(values), places)


def _decimal_cells(values: Values, places: Sequence[int] | None) -> list[Cells]:
    """Return numbers where Excel's 15 digits are enough."""
    texts = decimal_text(values)
    return _apart_or_all(list(map(_is_exact, texts)), texts, places)


def _is_number(number: float) -> bool:
    return number == 0 or _SMALLEST <= abs(number) <= _LARGEST


def _is_exact(decimal: bytes) -> bool:
    number = float(decimal)
    return math.isfinite(number) and _is_number(number) and Decimal(f"{number:.15g}") == Decimal(decimal.decode())


def _date_cells(values: Values, places: Sequence[int] | None) -> list[Cells]:
    held = [_FIRST_DATE <= moment < _END_OF_DATES for moment in integers(values)]
    if all(held):
        return [Cells(DATE, _days(values), places)]
    kinds = [DATE if is_held else TEXT for is_held in held]
    texts = [
        _days([value])[0] if is_held else escaped(date_text([value])[0])
        for value, is_held in zip(values, held, strict=True)
    ]
    return _apart(kinds, texts, places)


def _days(values: Values) -> Values:
    """Return dates as days since the end of 1899."""
    return [repr(_DAY_1970 + moment / _MILLISECONDS_OF_DAY).encode() for moment in integers(values)]


def _apart_or_all(are_numbers: list[bool], texts: Values, places: Sequence[int] | None) -> list[Cells]:
    if all(are_numbers):
        return [Cells(NUMBER, texts, places)]
    return _apart([NUMBER if is_number else TEXT for is_number in are_numbers], texts, places)


def _boolean_cells(values: Values, places: Sequence[int] | None) -> list[Cells]:
    return [Cells(BOOLEAN, list(map({b"\0": b"0", b"\1": b"1"}.__getitem__, values)), places)]


_CELLS: dict[int, Callable[[Values, Sequence[int] | None], list[Cells]]] = {
    0x01: _double_cells,
    STRING: text_cells,
    0x07: lambda values, places: [Cells(TEXT, id_text(values), places)],
    0x08: _boolean_cells,
    0x09: _date_cells,
    0x0A: lambda _values, _places: [],
    0x10: _integer_cells,
    0x12: _integer_cells,
    0x13: _decimal_cells,
}


def cells(part: Part, key: str) -> list[Cells]:
    """Return a part's values as cells; ``key`` says where they are from.

    Raises LongTextError, and what ``cell_text`` does.
    """
    if part.type_ in _CELLS:
        return _CELLS[part.type_](part.values, part.places)
    return text_cells(json_text(part.type_, part.values, key), part.places)


# Rows


def letters(column: int) -> bytes:
    """Return the name of a column, counted from 0.

    >>> letters(0), letters(26), letters(2001)
    (b'A', b'AA', b'BXZ')
    """
    name = b""
    while column >= 0:
        column, letter = divmod(column, 26)
        name, column = b"%c%b" % (ord("A") + letter, name), column - 1
    return name


def cell(column: int, kind: Kind, value: bytes) -> bytes:
    """Return one cell, in the row ``ROW``."""
    return b'<c r="%b%b%b%b%b' % (letters(column), ROW, kind.before, value, kind.after)


def rows(count: int, first: bytes, columns: Sequence[Sequence[Cells]]) -> list[bytes]:
    """Return rows, in which ``ROW`` stands for their numbers: of each, the first cell, and those of the columns."""
    opening = b'<row r="%b">%b' % (ROW, first)
    pieces: list[Iterable[bytes]] = []
    for column, column_cells in enumerate(columns, 1):
        if not column_cells:
            continue
        reference = b'<c r="%b%b' % (letters(column), ROW)
        if len(column_cells) == 1 and column_cells[0].places is None:
            ((kind, values, _),) = column_cells
            pieces += repeat(opening + reference + kind.before), values
            opening = kind.after
        else:
            pieces += repeat(opening), _spread(count, reference, column_cells)
            opening = b""
    pieces.append(repeat(opening + b"</row>"))
    return list(islice(map(b"".join, zip(*pieces)), count))  # noqa: B905 - what is repeated has no end


def _spread(count: int, reference: bytes, column_cells: Iterable[Cells]) -> list[bytes]:
    """Return the cells of a column at their places, and nothing elsewhere."""
    spread = [b""] * count
    for kind, values, places in column_cells:
        before = reference + kind.before
        for place, value in zip(range(count) if places is None else places, values, strict=True):
            spread[place] = b"%b%b%b" % (before, value, kind.after)
    return spread


def numbered(made: Iterable[bytes], first: int) -> Iterator[bytes]:
    """Yield rows with their numbers, the first of which is ``first``."""
    return (row.replace(ROW, b"%d" % number) for number, row in enumerate(made, first))
