"""Zip files for sinks that can only be appended to, and reading them back so that nothing in them goes unseen.

Each member's sizes and checksum come after its data, and every byte of the file depends on what was written alone.
"""

import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says
from typing import IO, BinaryIO
from urllib.parse import unquote
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.protocol import Sink

_CHUNK = 1 << 20

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that zip files know; the true one would make two exports of the same data differ."""

_LEVEL = 1
"""On text, twice as fast as the default level for a fifth more bytes."""

_HAS_DESCRIPTOR = 1 << 3
_local_header = Struct("<4s22xHH")
_descriptor = Struct("<4sLLL")
_large_descriptor = Struct("<4sLQQ")
_end_record = Struct("<4s16xH")

LARGEST_SMALL = (1 << 31) - 1
"""Of a file that is not of the large form, and of each of its members before it is compressed; in bytes."""

_HELD = 1 << 18
"""Bytes that a compressor may hold back; zlib's own buffers take less."""
_OF_MEMBER, _OF_END = 46 + 28, 24 + 22 + 20 + 56
"""Bytes of the directory: for each member, besides its name; and of the last member's end and the file's."""

_DAMAGE = (BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, StructError, ValueError, zlib.error)
"""What ZipFile raises for files that are none: it may find a name in no encoding, or a member encrypted."""

_UNSAFE = re.compile(r'[%/\\:*?"<>|\0-\x1f\x7f]|^[. ]|[. ]$')


def member_stem(collection: str) -> str:
    """Return a collection's name as a file's, the extension left out: what systems forbid there is percent-encoded.

    >>> member_stem("events/a:b")
    'events%2Fa%3Ab'
    """
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", collection)


def collection_of(member: str, folder: str, extension: str) -> str:
    """Return the collection whose member is called so. Raises IncompleteError where none's is."""
    collection = unquote(member.removeprefix(folder).removesuffix(extension))
    if f"{folder}{member_stem(collection)}{extension}" != member:
        raise IncompleteError("the file has a member that does not belong to it")
    return collection


class ZipStream:
    """Writes a zip file, member after member.

    Members may be of any size. Where that is not asked for, because some readers know no such files (Excel takes them
    for damaged), neither a member nor the file may be larger than ``LARGEST_SMALL``.
    """

    def __init__(self, sink: Sink, *, compress: bool, large: bool = True) -> None:
        method = ZIP_DEFLATED if compress else ZIP_STORED
        self._sink = _AppendOnly(sink)
        self._zip = _Zip(self._sink, "w", method)
        self._large = large
        self._member: IO[bytes] | None = None
        self._directory = 0

    @property
    def size(self) -> int:
        """How many bytes went to the sink."""
        return self._sink.size

    def to_come(self, more: int) -> int:
        """Return the most bytes that would yet go to the sink, up to the file's end, if ``more`` were to be written."""
        held = _HELD if self._zip.compression == ZIP_DEFLATED else 0
        return held + self._directory + _OF_END + more

    def begin(self, name: str) -> None:
        """Begin a member, and end the one before."""
        self.end()
        self._directory += _OF_MEMBER + len(name.encode())
        info = ZipInfo(name, _EPOCH)
        info.create_system = 3  # Unix, wherever this runs
        info.external_attr = 0o600 << 16
        info.compress_type = self._zip.compression
        info._compresslevel = _LEVEL  # type: ignore[attr-defined]  # noqa: SLF001 - ZipFile's own is for its own infos
        self._member = self._zip.open(info, "w", force_zip64=self._large)  # its size is not known yet

    def write(self, data: bytes) -> None:
        """Append to the member that was begun last."""
        assert self._member is not None
        self._member.write(data)

    def end(self) -> None:
        """Put down all of the member that was begun last, if there is one."""
        if self._member is not None:
            self._member.close()
            self._member = None

    def close(self) -> None:
        """Write the directory, which ends the file. The sink stays open."""
        self.end()
        self._zip.close()


class _Zip(ZipFile):
    def __del__(self) -> None:
        """Leave a file that was given up as it is; the base class would end it as if it were whole."""


class _AppendOnly(io.RawIOBase):
    """Hides that a sink may be able to seek: what has passed through it has been hashed."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # of all that io takes, ZipFile writes bytes alone
        self.size += len(data)
        return self._sink.write(data)


def members(file: BinaryIO) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield each member's name and its content in chunks; what the caller leaves of it is read after.

    Raises IncompleteError for damage, and for bytes of the file that belong to no member.
    """
    try:
        _check_end(file)
        with ZipFile(file) as archive:
            end = 0
            for info in archive.infolist():
                if info.header_offset != end or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                    raise BadZipFile
                end = _end_of(file, info)
            names = archive.namelist()
            if archive.start_dir != end or len(set(names)) != len(names):
                raise BadZipFile
            for info in archive.infolist():
                content = _chunks(archive, info)
                yield info.filename, content
                for _ in content:
                    pass
    except IncompleteError:
        raise
    except _DAMAGE as error:
        raise _damaged(error) from None


def whole(chunks: Iterable[bytes], at_most: int) -> bytes:
    """Return a member's content. Raises IncompleteError where it is larger than it can be."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > at_most:
            raise IncompleteError("a member of the file is larger than it can be")
    return bytes(content)


def _check_end(file: BinaryIO) -> None:
    """Raise unless the file's last bytes are a zip file's end: ZipFile itself would look for it further up."""
    file.seek(-_end_record.size, os.SEEK_END)
    signature, comment = _end_record.unpack(file.read(_end_record.size))
    if signature != b"PK\5\6" or comment:
        raise BadZipFile


def _end_of(file: BinaryIO, info: ZipInfo) -> int:
    """Return where a member ends; raise where what stands before and after its data is not what the directory says."""
    file.seek(info.header_offset)
    header = file.read(_local_header.size)
    if len(header) != _local_header.size:
        raise BadZipFile
    signature, name, extra = _local_header.unpack(header)
    end: int = info.header_offset + _local_header.size + name + extra + info.compress_size
    if signature != b"PK\3\4":
        raise BadZipFile
    if info.flag_bits & _HAS_DESCRIPTOR:
        descriptor = _large_descriptor if extra else _descriptor
        file.seek(end)
        if file.read(descriptor.size) != descriptor.pack(b"PK\7\b", info.CRC, info.compress_size, info.file_size):
            raise BadZipFile
        end += descriptor.size
    return end


def _chunks(archive: ZipFile, info: ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(info) as member:
            while chunk := member.read(_CHUNK):  # to the end, where the checksum is compared
                yield chunk
            if member.tell() != info.file_size:
                raise BadZipFile
    except IncompleteError:
        raise
    except _DAMAGE as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> IncompleteError:
    return IncompleteError(f"the file is not a zip file to its end ({type(error).__name__})")
