"""Around a file's content: compression, then encryption with age; and the way back.

All of it streams: the content is never in memory or on a disk as a whole, and plain only while it passes through.
"""

import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from export_pipeline.encryption.age import AgeWriter, Identity, Recipient, open_age, parse_recipient
from export_pipeline.errors import BadInputError
from export_pipeline.formats.protocol import Compression, Format, Sink, WriteOptions

_EXTENSIONS: dict[Compression, str] = {"none": "", "gzip": ".gz", "zstd": ".zst"}
_MEDIA_TYPES: dict[Compression, str] = {"gzip": "application/gzip", "zstd": "application/zstd"}
_GZIP_LEVEL = 6

HELD_BY_COMPRESSION = 256 << 10
"""Bytes: more than a compressor keeps before it puts some down (deflate 64 KiB, Zstandard a block of 128 KiB)."""
HELD_BY_ENCRYPTION = 64 << 10
"""Bytes: age's chunk."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens an encrypted package: the identities of a recipient, or a passphrase."""

    identities: Sequence[Identity] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)
    file_key: bytes | None = field(default=None, repr=False)
    """Known to the process that has just written the file, and to nobody else."""

    def __bool__(self) -> bool:
        return bool(self.identities or self.passphrase or self.file_key)


NO_KEYS = Keys()


@dataclass(frozen=True, slots=True)
class Lock:
    """Whom an encrypted package is for: recipients, or whoever has the passphrase."""

    recipients: Sequence[Recipient] = ()
    passphrase: str | None = field(default=None, repr=False)


def lock_of(options: WriteOptions, passphrase: str | None) -> Lock | None:
    """Return the lock that a request asks for, if any. Raises BadInputError where it cannot be made."""
    if options.recipients and options.passphrase:
        raise BadInputError("encryption: name recipients or give a passphrase; a file of age takes one of the two")
    if options.passphrase and not passphrase:
        raise BadInputError("encryption: the request is for a passphrase, and none is at hand; ask for it anew")
    if options.passphrase:
        return Lock(passphrase=passphrase)
    return Lock([parse_recipient(text) for text in options.recipients]) if options.recipients else None


def is_encrypted(options: WriteOptions) -> bool:
    """Tell whether a package is encrypted."""
    return bool(options.recipients or options.passphrase)


def outer_compression(format_: Format, options: WriteOptions) -> Compression:
    """Return how the file is compressed as a whole; a format that compresses inside its file does so itself."""
    return "none" if format_.compresses_inside else options.compression


def extension_of(format_: Format, options: WriteOptions) -> str:
    """Return the file's extension: json.gz.age, for instance."""
    age = ".age" if is_encrypted(options) else ""
    return f"{format_.extension}{_EXTENSIONS[outer_compression(format_, options)]}{age}"


def media_type_of(format_: Format, options: WriteOptions) -> str:
    """Return the file's media type: that of its outermost layer."""
    if is_encrypted(options):
        return "application/octet-stream"  # age has none of its own
    return _MEDIA_TYPES.get(outer_compression(format_, options), format_.media_type)


class Layers:
    """One file's layers, on top of the sink that takes what comes out of them."""

    def __init__(self, sink: Sink, compression: Compression, lock: Lock | None) -> None:
        self._below = _Below(sink)
        self._layers: list[Any] = []
        self.keys = NO_KEYS
        """What opens the file again, as long as this process lives."""
        self.held = 0
        """How many bytes may be on their way at most."""
        if lock is not None:
            age = AgeWriter(self._below, recipients=lock.recipients, passphrase=lock.passphrase)
            self._layers.append(age)
            self.keys = Keys(file_key=age.file_key)
            self.held += HELD_BY_ENCRYPTION
        if compression != "none":
            self._layers.append(_compressor(_Below(age) if lock else self._below, compression))
            self.held += HELD_BY_COMPRESSION
        self.write: Callable[[Any], object] = (self._layers[-1] if self._layers else self._below).write

    def close(self) -> None:
        """Write what ends each layer. The sink stays open."""
        for layer in reversed(self._layers):
            layer.close()

    def give_up(self) -> None:
        """Leave the file as it is: nothing goes to the sink any more."""
        self._below.given_up = True
        self.close()  # now, since compressors that nobody ends do it themselves, at any time


class _Below(io.RawIOBase):
    """A sink as the io object that compressors ask for."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.given_up = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.given_up:
            self._sink.write(bytes(data))
        return len(data)


def _compressor(below: _Below, compression: Compression) -> Any:
    if compression == "gzip":
        # Without the time, two exports of the same data are the same.
        return gzip.GzipFile("", "wb", _GZIP_LEVEL, below, mtime=0)
    import pyarrow as pa  # imported here: it costs half a second

    return pa.CompressedOutputStream(pa.PythonFile(below, mode="w"), "zstd")


def open_layers(file: BinaryIO, format_: Format, options: WriteOptions, keys: Keys) -> BinaryIO:
    """Return the content of a file, plain. It can seek unless the file is compressed.

    Raises WrongKeyError where no key fits; reading raises IncompleteError or OSError for damage.
    """
    content = file
    if is_encrypted(options):
        content = open_age(content, identities=keys.identities, passphrase=keys.passphrase, file_key=keys.file_key)
    compression = outer_compression(format_, options)
    if compression == "none":
        return content
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(content, mode="r"), compression), 1 << 20)
