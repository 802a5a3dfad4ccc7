"""Documents end to end, cut into pieces of any size, are still the same documents; damage is noticed."""

import io
from datetime import UTC, datetime
from itertools import pairwise
from struct import pack
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.errors import IncompleteError
from export_pipeline.mongo import bson_stream
from export_pipeline.mongo.bson_stream import documents, pieces, view, whole_documents

# What is inside does not matter here, only how long it is.
DOCUMENTS = st.dictionaries(
    st.sampled_from(["_id", "uid", "", "ключ"]), st.binary(max_size=40) | st.integers(0, 9) | st.text(max_size=9)
).map(bson.encode)
STREAMS = st.lists(DOCUMENTS, max_size=12)
FILLED_STREAMS = st.lists(DOCUMENTS, min_size=1, max_size=5)


def cut(
    data: bytes, piece_bytes: int, *, before: bytes = b"", after: bytes = b"", missing: int = 0
) -> list[bson_stream.Piece]:
    """Read ``data`` and ``missing`` bytes more from a file that has other bytes around it, so much at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bson_stream, "PIECE_BYTES", piece_bytes)
        return list(pieces(io.BytesIO(before + data + after), len(before), len(data) + missing))


@given(STREAMS)
def test_a_stream_gives_its_documents(stream: list[bytes]) -> None:
    assert list(documents(b"".join(stream))) == stream


@given(STREAMS, st.binary(max_size=4))
def test_whole_documents_end_where_the_last_one_ends(stream: list[bytes], rest: bytes) -> None:
    data = b"".join(stream)
    offsets, end = whole_documents(data + rest)
    assert end == len(data)
    assert [data[start:stop] for start, stop in pairwise([*offsets, end])] == stream


@given(STREAMS, st.integers(1, 300), st.binary(max_size=9), st.binary(max_size=9))
def test_pieces_of_any_size_hold_the_same_documents(
    stream: list[bytes], piece_bytes: int, before: bytes, after: bytes
) -> None:
    found = cut(b"".join(stream), piece_bytes, before=before, after=after)
    assert [document for piece in found for document in documents(piece.data)] == stream
    assert [len(list(documents(piece.data))) for piece in found] == [len(piece) for piece in found]
    longest = max(map(len, stream), default=0)
    assert all(len(piece.data) <= piece_bytes + longest for piece in found)


@given(FILLED_STREAMS, st.integers(1, 300))
def test_a_piece_knows_its_first_and_its_last_document(stream: list[bytes], piece_bytes: int) -> None:
    for piece in cut(b"".join(stream), piece_bytes):
        own = list(documents(piece.data))
        assert (piece.first, piece.last) == (own[0], own[-1])


@given(FILLED_STREAMS, st.integers(1, 300), st.data())
def test_what_is_cut_off_anywhere_is_noticed(stream: list[bytes], piece_bytes: int, data: st.DataObject) -> None:
    whole = b"".join(stream)
    ends = {0, *(len(b"".join(stream[:count])) for count in range(len(stream) + 1))}
    short = whole[: data.draw(st.sampled_from(sorted(set(range(len(whole))) - ends)))]
    with pytest.raises(IncompleteError):
        list(documents(short))
    with pytest.raises(IncompleteError):
        cut(short, piece_bytes)


@given(FILLED_STREAMS, st.integers(1, 300), st.integers(1, 50))
def test_a_file_that_is_shorter_than_the_range_is_noticed(stream: list[bytes], piece_bytes: int, missing: int) -> None:
    with pytest.raises(IncompleteError):
        cut(b"".join(stream), piece_bytes, missing=missing)


@given(FILLED_STREAMS, st.integers(-(2**31), 4), st.data())
def test_a_length_that_no_document_has_is_noticed(stream: list[bytes], length: int, data: st.DataObject) -> None:
    damaged = data.draw(st.integers(0, len(stream) - 1))
    whole = b"".join([*stream[:damaged], pack("<i", length) + stream[damaged][4:], *stream[damaged + 1 :]])
    with pytest.raises(IncompleteError, match="damaged"):
        list(documents(whole))
    with pytest.raises(IncompleteError):
        cut(whole, 100)


@given(FILLED_STREAMS)
def test_a_length_that_is_too_long_is_noticed(stream: list[bytes]) -> None:
    whole = b"".join([*stream[:-1], pack("<i", 2**31 - 1) + stream[-1][4:]])
    with pytest.raises(IncompleteError):
        list(documents(whole))
    with pytest.raises(IncompleteError):
        cut(whole, 50)


@pytest.mark.parametrize(
    "odd",
    [
        bson.encode({"when": bson.datetime_ms.DatetimeMS(2**60)}),
        bson.encode({"text": "QQQ"}).replace(b"QQQ", b"Q\xffQ"),
        bson.encode({"QQQ": 1}).replace(b"QQQ", b"Q\xffQ"),
        bson.encode({"inside": {"text": "QQQ"}}).replace(b"QQQ", b"\xed\xa0\x80"),
    ],
)
def test_a_view_shows_a_field_whatever_the_others_hold(odd: bytes) -> None:
    document = bson.encode({"uid": "1a2", "at": datetime(2026, 11, 1, tzinfo=UTC)})
    shown: Any = view(pack("<i", len(document) + len(odd) - 5) + odd[4:-1] + document[4:])
    assert shown["uid"] == "1a2"
    assert len(shown) == 3
