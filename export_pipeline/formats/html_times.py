"""Moments in the page: read from a document's time field, gathered into months, and written for people. All in UTC."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from bson import Decimal128
from bson.datetime_ms import DatetimeMS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_1, _YEAR_10000 = -62_135_596_800_000, 253_402_300_800_000
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

MOST_BARS = 60
"""Of a chart; more are too thin to be told apart."""


def milliseconds(value: object, unit: str | None) -> int | None:
    """Return a time field's value as milliseconds since 1970; None where it is no moment of the years 1 to 9999.

    ``unit`` is the catalogue's: s, ms or date. Of an array the first item counts.
    """
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, Decimal128):
        decimal = value.to_decimal()
        value = float(decimal) if decimal.is_finite() else None
    if isinstance(value, DatetimeMS) and unit == "date":
        moment: float = int(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and unit in ("s", "ms"):
        moment = value * 1000 if unit == "s" else value
    else:
        return None
    return int(moment) if _YEAR_1 <= moment < _YEAR_10000 else None  # which NaN is not


def value_at(document: Mapping[str, object], path: list[str]) -> object:
    """Return the value at a path of names; of an array of documents, the first one's."""
    value: object = document
    for name in path:
        if isinstance(value, list):
            value = value[0] if value else None
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def month_of(moment: int) -> int:
    """Return in which month, counted from January of year 0, a moment in milliseconds lies."""
    at = _EPOCH + timedelta(milliseconds=moment)
    return at.year * 12 + at.month - 1


def moment_text(moment: int) -> str:
    """Return a moment in milliseconds to the second.

    >>> moment_text(1769807367000)
    '2026-01-30 21:09:27'
    """
    return (_EPOCH + timedelta(milliseconds=moment)).isoformat(" ", "seconds")[: -len("+00:00")]


def iso_text(moment: int) -> str:
    """Return a moment in milliseconds as HTML's ``datetime`` takes it."""
    return (_EPOCH + timedelta(milliseconds=moment)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day_text(moment: int) -> str:
    """Return the day of a moment in milliseconds.

    >>> day_text(1769807367000)
    '30 January 2026'
    """
    at = _EPOCH + timedelta(milliseconds=moment)
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}"


class Bar(NamedTuple):
    """One span of time, and how many documents lie in it."""

    label: str
    short: str
    documents: int


class Spans(NamedTuple):
    """All of the time that documents lie in, cut into spans of the same length."""

    unit: str
    """What one span is: month, year, decade, century or millennium."""
    bars: list[Bar]


_UNITS = {"month": 1, "year": 12, "decade": 120, "century": 1200, "millennium": 12_000}


def spans(months: Mapping[int, int]) -> Spans:
    """Return documents by month as bars, empty ones between them included; months where they are not too many."""
    if not months:
        return Spans("month", [])
    first, last = min(months), max(months)
    unit, size = next(
        (unit, size) for unit, size in _UNITS.items() if last // size - first // size < MOST_BARS or size == 12_000
    )
    found = Counter[int]()
    for month, documents in months.items():
        found[month // size] += documents
    return Spans(unit, [_bar(number, size, found[number]) for number in range(first // size, last // size + 1)])


def _bar(number: int, size: int, documents: int) -> Bar:
    year, month = divmod(number * size, 12)
    if size == 1:
        return Bar(f"{_MONTHS[month]} {year}", f"{_MONTHS[month][:3]} {year}", documents)
    years = size // 12
    label = f"{year}" if years == 1 else f"{year} to {year + years - 1}"
    return Bar(label, f"{year}", documents)
