"""Which bytes answer which headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.gateway.byte_ranges import Span, chosen_span

WHOLE = Span(200, 0, 100)
REFUSED = Span(416, 0, 0)


@pytest.mark.parametrize(
    ("range_", "span"),
    [
        (None, WHOLE),
        ("bytes=0-9", Span(206, 0, 10)),
        ("bytes=90-", Span(206, 90, 10)),
        ("bytes=-10", Span(206, 90, 10)),
        ("bytes=-1000", Span(206, 0, 100)),
        ("bytes=99-1000", Span(206, 99, 1)),
        ("Bytes = 0-0 ", Span(206, 0, 1)),
        ("bytes=100-", REFUSED),
        ("bytes=100-200", REFUSED),
        ("bytes=-0", REFUSED),
        ("bytes=9-0", WHOLE),
        ("bytes=0-1,5-6", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=--1", WHOLE),
        ("bytes=٣-٤", WHOLE),
        ("items=0-1", WHOLE),
        (f"bytes=0-{'9' * 5000}", WHOLE),
        ("", WHOLE),
    ],
)
def test_a_range(range_: str | None, span: Span) -> None:
    assert chosen_span(100, '"a"', range_=range_) == span


@pytest.mark.parametrize("range_", ["bytes=0-0", "bytes=0-", "bytes=-1"])
def test_an_empty_file_has_no_range(range_: str) -> None:
    assert chosen_span(0, '"a"', range_=range_).status == 416
    assert chosen_span(0, '"a"') == Span(200, 0, 0)


@pytest.mark.parametrize(
    ("if_range", "status"), [('"a"', 206), ('"b"', 200), ('W/"a"', 200), ("Sun, 22 Nov 2026 09:00:00 GMT", 200)]
)
def test_a_range_of_what_has_changed_is_the_whole(if_range: str, status: int) -> None:
    assert chosen_span(100, '"a"', range_="bytes=1-", if_range=if_range).status == status


@pytest.mark.parametrize(
    ("given_", "status"), [('"a"', 304), ('W/"a"', 304), ('"b", "a"', 304), ("*", 304), ('"b"', 200), ("a", 200)]
)
def test_what_has_not_changed_is_not_sent_again(given_: str, status: int) -> None:
    assert chosen_span(100, '"a"', if_none_match=given_).status == status


@given(st.integers(0, 50), st.text("bytes=-0123456789, ", max_size=20) | st.from_regex(r"bytes=[0-9]{0,2}-[0-9]{0,2}"))
def test_no_span_leaves_the_file(size: int, range_: str) -> None:
    span = chosen_span(size, '"a"', range_=range_)
    assert 0 <= span.begin <= span.begin + span.length <= size
    assert span.status in (200, 206, 416)
    assert (span.length == size) or span.status != 200
    assert span.length or span.status != 206
