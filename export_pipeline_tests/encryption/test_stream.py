"""Whatever the pieces written and the places read, what comes out is what went in, or an error."""

import io
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from export_pipeline.encryption.stream import CHUNK, SEALED_CHUNK, TAG, PayloadReader, PayloadWriter
from export_pipeline.errors import IncompleteError

KEY = bytes(range(32))
PLAIN = random.Random(7).randbytes(4 * CHUNK)
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 1, 3 * CHUNK]
LENGTHS = st.sampled_from(SIZES) | st.integers(0, 3 * CHUNK)


def seal(plain: bytes, key: bytes = KEY) -> bytes:
    sink = io.BytesIO()
    writer = PayloadWriter(sink, key)
    assert writer.write(plain) == writer.tell() == len(plain)
    writer.close()
    return sink.getvalue()


def opened(sealed: bytes, key: bytes = KEY) -> io.BufferedReader:
    return io.BufferedReader(PayloadReader(io.BytesIO(sealed), key, name="the file"), CHUNK)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_opens_again_and_is_no_longer_than_needed(size: int) -> None:
    sealed = seal(PLAIN[:size])
    assert len(sealed) == size + TAG * max(1, -(-size // CHUNK))
    assert opened(sealed).read() == PLAIN[:size]
    assert opened(sealed).seek(0, io.SEEK_END) == size


@settings(max_examples=60)
@given(st.lists(st.sampled_from([1, 100, CHUNK - 1, CHUNK, CHUNK + 1]) | st.integers(0, CHUNK), max_size=8))
def test_the_pieces_in_which_it_is_written_do_not_matter(lengths: list[int]) -> None:
    sink = io.BytesIO()
    writer = PayloadWriter(sink, KEY)
    places = [0]
    for length in lengths:
        length = writer.write(PLAIN[places[-1] : places[-1] + length])
        places.append(places[-1] + length)
        assert writer.tell() == places[-1]
        assert places[-1] - CHUNK <= len(sink.getvalue()) // SEALED_CHUNK * CHUNK, "no more than a chunk waits"
    writer.close()
    assert sink.getvalue() == seal(PLAIN[: places[-1]])


@settings(max_examples=60)
@given(LENGTHS, st.lists(st.tuples(LENGTHS, st.integers(0, 2), LENGTHS), max_size=12))
def test_reading_anywhere_gives_what_the_plain_file_gives(size: int, moves: list[tuple[int, int, int]]) -> None:
    plain, reader = io.BytesIO(PLAIN[:size]), opened(seal(PLAIN[:size]))
    for offset, whence, length in moves:
        base = (0, plain.tell(), size)[whence]
        distance = (offset, offset - CHUNK, -offset)[whence]
        if base + distance >= 0:
            assert reader.seek(distance, whence) == plain.seek(distance, whence)
        assert reader.read(length) == plain.read(length)
        assert reader.tell() == plain.tell()
    assert reader.read() == plain.read()


def test_a_place_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        PayloadReader(io.BytesIO(seal(b"abc")), KEY, name="the file").seek(-4, io.SEEK_END)


def test_any_kind_of_buffer_can_be_written() -> None:
    sink = io.BytesIO()
    writer = PayloadWriter(sink, KEY)
    numbers = memoryview(b"abcdefgh").cast("H")
    assert [writer.write(data) for data in (b"12", bytearray(b"3"), memoryview(b"4"), numbers, b"")] == [2, 1, 1, 8, 0]
    writer.close()
    assert opened(sink.getvalue()).read() == b"1234abcdefgh"


def test_a_closed_payload_takes_no_more_and_has_one_end() -> None:
    sink = io.BytesIO()
    writer = PayloadWriter(sink, KEY)
    writer.write(b"abc")
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"d")
    assert (opened(sink.getvalue()).read(), writer.tell(), sink.closed) == (b"abc", 3, False)


def test_reading_keeps_off_the_file_beside_it() -> None:
    file = io.BytesIO(b"header" + seal(PLAIN))
    file.seek(6)
    with io.BufferedReader(PayloadReader(file, KEY, name="the file"), 100) as reader:
        assert reader.read(200) == PLAIN[:200]
        file.seek(0)
        assert reader.read(CHUNK) == PLAIN[200 : CHUNK + 200]
    assert not file.closed


# What was done to the file


def forged(*chunks: tuple[int, bytes, bool]) -> bytes:
    """A payload of any chunks: number, content, and whether it is marked as the last."""
    cipher = ChaCha20Poly1305(KEY)
    return b"".join(
        cipher.encrypt(number.to_bytes(11, "big") + bytes([last]), content, None) for number, content, last in chunks
    )


FULL = PLAIN[:CHUNK]


def test_the_chunks_are_those_of_the_specification() -> None:
    assert forged((0, FULL, False), (1, b"end", True)) == seal(FULL + b"end")


@pytest.mark.parametrize(
    "sealed",
    [
        forged((0, FULL, False), (1, b"", True)),
        forged((0, FULL, False)),
        forged((0, b"", False)),
        forged((0, b"abc", False)),
        forged((1, b"abc", True)),
        forged((0, FULL, True), (0, b"abc", True)),
        forged((0, b"abc", True), (1, b"def", True)),
        forged((0, FULL + b"x", True)),
        forged((0, FULL, False), (2, FULL, False), (1, b"abc", True)),
        b"",
        bytes(TAG),
        bytes(TAG - 1),
    ],
    ids=range(12),
)
def test_an_end_that_no_writer_makes_is_refused_at_once(sealed: bytes) -> None:
    with pytest.raises(IncompleteError, match=r"^the file: its end is not the one that was written"):
        opened(sealed)


@pytest.mark.parametrize(
    "sealed",
    [
        forged((1, FULL, False), (0, FULL, False), (2, b"abc", True)),
        forged((0, FULL, True), (1, FULL, False), (2, b"abc", True)),
        forged((0, FULL, False), (0, FULL, False), (2, b"abc", True)),
        forged((0, PLAIN[: CHUNK - 1], False), (1, b"x" + FULL, False), (2, b"abc", True)),
    ],
    ids=["swapped", "marked as the last", "repeated", "shifted"],
)
def test_chunks_out_of_their_places_are_refused_when_read(sealed: bytes) -> None:
    reader = opened(sealed)
    assert reader.seek(-3, io.SEEK_END) == 2 * CHUNK
    assert reader.read() == b"abc"
    reader.seek(0)
    with pytest.raises(IncompleteError, match=r"^the file: it was changed after it was written, within the 64 KiB"):
        reader.read()


@pytest.mark.parametrize("size", SIZES)
def test_a_file_cut_short_anywhere_near_a_border_is_refused(size: int) -> None:
    sealed = seal(PLAIN[:size])
    borders = {chunks * SEALED_CHUNK + more for chunks in range(5) for more in (-1, 0, 1, TAG - 1, TAG, TAG + 1)}
    cuts = sorted(cut for cut in borders | {len(sealed) - 1} if 0 <= cut < len(sealed))
    assert cuts
    for cut in cuts:
        with pytest.raises(IncompleteError):
            opened(sealed[:cut])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extra", [b"\0", bytes(TAG), seal(b""), seal(b"more"), bytes(SEALED_CHUNK)], ids=range(5))
def test_bytes_after_the_end_are_refused(size: int, extra: bytes) -> None:
    with pytest.raises(IncompleteError):
        opened(seal(PLAIN[:size]) + extra)


def test_a_changed_byte_is_refused_where_it_is_and_the_rest_can_be_read() -> None:
    sealed = bytearray(seal(PLAIN))
    sealed[SEALED_CHUNK + 5] ^= 1
    reader = opened(bytes(sealed))
    assert reader.read(CHUNK) == PLAIN[:CHUNK]
    with pytest.raises(IncompleteError, match="from byte 65536 of its content"):
        reader.read(1)
    reader.seek(2 * CHUNK)
    assert reader.read() == PLAIN[2 * CHUNK :]


def test_a_file_that_changes_while_it_is_read_is_noticed() -> None:
    file = io.BytesIO(seal(PLAIN))
    reader = io.BufferedReader(PayloadReader(file, KEY, name="the file"), CHUNK)
    file.truncate(SEALED_CHUNK + 100)
    assert reader.read(CHUNK) == PLAIN[:CHUNK]
    with pytest.raises(IncompleteError):
        reader.read()


def test_another_key_opens_nothing() -> None:
    with pytest.raises(IncompleteError):
        opened(seal(PLAIN), bytes(32))


# A sink that fails


class FailingSink(io.BytesIO):
    """Fails once, before or after it has taken what it was given."""

    def __init__(self, at: int, takes: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self.at = at
        self.takes = takes

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.at -= 1
        if self.at == 0:
            super().write(self.takes(data))
            raise OSError("no space left on device")
        return super().write(data)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("takes", [lambda data: b"", lambda data: data[:100], lambda data: data])
def test_after_a_failure_nothing_that_is_written_passes_for_the_whole(at: int, takes: Callable[[bytes], bytes]) -> None:
    sink = FailingSink(at, takes)
    writer = PayloadWriter(sink, KEY)
    for start, end in pairwise(range(0, 4 * CHUNK + 1, CHUNK)):
        try:
            writer.write(PLAIN[start:end])
        except OSError:
            continue
        except ValueError:
            break
    writer.close()
    with pytest.raises(IncompleteError):
        opened(sink.getvalue())
