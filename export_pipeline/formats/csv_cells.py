"""Cells and lines of CSV as RFC 4180 has them, in UTF-8, a column at a time."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, islice, repeat

from export_pipeline.formats.bson_walk import ARRAY, DOCUMENT, STRING
from export_pipeline.formats.cell_text import (
    Values,
    boolean_text,
    date_text,
    decimal_text,
    double_text,
    id_text,
    integer_text,
    json_text,
    text,
)
from export_pipeline.formats.column_parts import Part

_BEGINNINGS = rb"[=+\-@\t\r\n]|\xef\xbc[\x9d\x8b\x8d\xa0]"
_FORMULA = re.compile(_BEGINNINGS)
_FORMULA_AMONG = re.compile(rb"\0(?:%b)" % _BEGINNINGS)
"""How text begins that spreadsheets may run (owasp.org, CSV injection), the full-width forms included."""

_SPECIAL = b',"\r\n'
"""Cells with one of these are quoted."""

# The types that stand as they are; what their texts hold needs no quotes.
_PLAIN: dict[int, Callable[[Values], Values]] = {
    0x01: double_text,
    0x07: id_text,
    0x08: boolean_text,
    0x0A: lambda values: [b""] * len(values),
    0x10: integer_text,
    0x12: integer_text,
    0x13: decimal_text,
}


def harmless(value: bytes) -> bytes:
    """Return text such that spreadsheets show it; the apostrophe tells them to.

    >>> harmless(b"=1+1"), harmless(b"1+1")
    (b"'=1+1", b'1+1')
    """
    return b"'" + value if _FORMULA.match(value) else value


def quoted(value: bytes) -> bytes:
    """Return a cell.

    >>> quoted(b"x, y"), quoted(b"hi")
    (b'"x, y"', b'hi')
    """
    if len(value.translate(None, _SPECIAL)) == len(value):
        return value
    return b'"%b"' % value.replace(b'"', b'""')


def text_cells(values: Values, *, formulas: bool) -> Values:
    """Return strings as cells. Raises UnicodeDecodeError."""
    values = text(values)
    joined = b"\0" + b"\0".join(values)
    if not formulas and _FORMULA_AMONG.search(joined):
        values = list(map(harmless, values))
    # The usual case is that no cell is special, and looking at all of them together is the fastest.
    return values if len(joined.translate(None, _SPECIAL)) == len(joined) else list(map(quoted, values))


def cells(part: Part, key: str, *, formulas: bool) -> Values:
    """Return a part's values as cells; ``key`` says where they are from. Raises what ``cell_text`` does."""
    type_, values = part.type_, part.values
    if type_ == STRING:
        return text_cells(values, formulas=formulas)
    if type_ in _PLAIN:
        return _PLAIN[type_](values)
    if type_ == 0x09:
        return list(map(quoted, date_text(values)))  # some are JSON
    texts = json_text(type_, values, key)
    if type_ not in (DOCUMENT, ARRAY):
        return list(map(quoted, texts))
    # Taken together, as nearly all have quotes; JSON has no zero byte.
    doubled = b"\0".join(texts).replace(b'"', b'""').split(b"\0")
    return [b'"%b"' % cell for cell in doubled]


def lines(count: int, first: bytes, columns: Sequence[Values | None]) -> list[bytes]:
    """Return lines without their ends. Of each, ``first`` is the first cell; None is a column of empty ones."""
    pieces: list[Iterable[bytes]] = [repeat(first)]
    for is_empty, together in groupby(columns, lambda column: column is None):
        if is_empty:
            pieces.append(repeat(b"," * (len(list(together)) - 1)))
        else:
            pieces += (column for column in together if column is not None)
    return list(islice(map(b",".join, zip(*pieces)), count))  # noqa: B905 - what is repeated has no end
