"""Zip files as they stream, in both forms."""

import io
import zipfile
import zlib

import pytest

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.zip_stream import ZipStream, members

FILES = {"a.txt": b"first " * 1_000, "folder/b.txt": b"", "ü": bytes(range(256)) * 300}


def streamed(files: dict[str, bytes], *, compress: bool = True, large: bool = True) -> bytes:
    memory = io.BytesIO()
    stream = ZipStream(memory, compress=compress, large=large)
    for name, content in files.items():
        stream.begin(name)
        for begin in range(0, len(content), 1_000):
            stream.write(content[begin : begin + 1_000])
    stream.close()
    assert stream.size == len(memory.getvalue())
    return memory.getvalue()


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("compress", [True, False])
def test_members_are_read_back(compress: bool, large: bool) -> None:
    data = streamed(FILES, compress=compress, large=large)
    assert {name: b"".join(content) for name, content in members(io.BytesIO(data))} == FILES
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == FILES


@pytest.mark.parametrize("large", [True, False])
def test_any_changed_byte_of_what_frames_a_member_is_noticed(large: bool) -> None:
    data = streamed({"a": b"x"}, compress=False, large=large)
    after = data.index(b"PK\7\b")
    for position in range(after, after + (24 if large else 16)):
        spoiled = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(IncompleteError):
            list(members(io.BytesIO(spoiled)))


def test_members_of_unknown_size_are_of_the_large_form_unless_told_otherwise() -> None:
    assert streamed({"a": b"x"})[18:30] == b"\xff" * 8 + b"\1\0" + b"\x14\0"
    assert streamed({"a": b"x"}, large=False)[18:30] == bytes(8) + b"\1\0" + b"\0\0"


def test_compression_is_the_fast_one() -> None:
    content = b"".join(b"%d," % (n * n) for n in range(20_000))
    data = streamed({"a": content})
    begin = 30 + len("a") + 20
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    assert data[begin:].startswith(compressor.compress(content) + compressor.flush())


@pytest.mark.parametrize("compress", [True, False])
def test_what_is_yet_to_come_is_no_more_than_it_says(compress: bool) -> None:
    memory = io.BytesIO()
    stream = ZipStream(memory, compress=compress)
    expected = []
    for number in range(20):
        name = f"{number}" * 50
        new = len(name) + 200
        expected.append(memory.tell() + stream.to_come(new + 100_000 + len(name)))
        stream.begin(name)
        stream.write(zlib.compress(bytes(range(256)) * 20_000)[:100_000].ljust(100_000, b"x"))
        expected.append(memory.tell() + stream.to_come(0))
    stream.close()
    assert memory.tell() <= min(expected[-2:])
