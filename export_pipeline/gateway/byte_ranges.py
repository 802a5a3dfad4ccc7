"""Conditional and partial requests, as RFC 9110 (sections 13 and 14) has them. No I/O."""

import re
from dataclasses import dataclass
from typing import Literal

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)
_LONGEST_NUMBER = 18  # digits; no file is longer, and int() of thousands of them takes a while


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes to send: ``length`` of them from ``begin``, with this status."""

    status: Literal[200, 206, 304, 416]
    begin: int
    length: int


def chosen_span(
    size: int, etag: str, *, range_: str | None = None, if_range: str | None = None, if_none_match: str | None = None
) -> Span:
    """Return what of a file of ``size`` bytes answers a request with these headers.

    A range that is none, or several at once, counts for nothing: the whole file answers it.

    >>> chosen_span(100, '"a"', range_="bytes=90-")
    Span(status=206, begin=90, length=10)
    """
    if if_none_match is not None and _is_among(etag, if_none_match):
        return Span(304, 0, 0)
    whole = Span(200, 0, size)
    # If-Range needs a strong match, so a date or a weak tag is none.
    if range_ is None or (if_range is not None and if_range.strip() != etag):
        return whole
    found = _RANGE.fullmatch(range_.strip())
    if found is None or found[1] == found[2] == "" or max(len(found[1]), len(found[2])) > _LONGEST_NUMBER:
        return whole
    if found[1] == "":
        length = min(int(found[2]), size)
        return Span(206, size - length, length) if length else Span(416, 0, 0)
    begin = int(found[1])
    end = min(int(found[2]), size - 1) if found[2] else size - 1
    if found[2] and int(found[2]) < begin:
        return whole
    return Span(206, begin, end - begin + 1) if begin < size else Span(416, 0, 0)


def _is_among(etag: str, given: str) -> bool:
    """Tell whether a tag is in the list of ``If-None-Match``, which compares weakly."""
    return given.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in given.split(","))
