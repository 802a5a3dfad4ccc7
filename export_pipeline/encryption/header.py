"""The header of an age file as text: stanzas, each with the file's key wrapped for somebody, and a MAC over them.

Read to the letter of https://c2sp.org/age: what any other reader might understand otherwise is refused.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from export_pipeline.errors import IncompleteError

HEADER_LIMIT = 16 << 20
"""Bytes: room for 170,000 recipients, and an end to what a hostile file can make us keep."""

_VERSION = b"age-encryption.org/v1\n"
_COLUMNS = 64
_STANZA = b"-> "
_END = b"---"
_argument_line = re.compile(rb"-> [!-~]+( [!-~]+)*")


@dataclass(frozen=True, slots=True)
class Stanza:
    """The file's key, wrapped. Its first argument says how."""

    arguments: tuple[str, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A header that was read; not to be trusted before ``verify``."""

    stanzas: tuple[Stanza, ...]
    covered: bytes
    """What the MAC is over."""
    mac: bytes

    def verify(self, file_key: bytes) -> None:
        """Raise IncompleteError unless whoever knew ``file_key`` wrote this header."""
        try:
            _mac(file_key, self.covered).verify(self.mac)
        except InvalidSignature:
            raise IncompleteError(
                "its header does not belong to its key: it was changed after it was written; take the file from "
                "where it came from again"
            ) from None


def derive(key: bytes, salt: bytes | None, info: bytes) -> bytes:
    """Return the 32 bytes that HKDF-SHA-256 makes of ``key``."""
    return HKDF(SHA256(), 32, salt, info).derive(key)


def to_base64(data: bytes) -> str:
    """Return ``data`` in base64, without padding."""
    return b64encode(data).rstrip(b"=").decode()


def from_base64(text: bytes) -> bytes:
    """Return the data of base64 without padding. Raises IncompleteError for all but the one right way to write it."""
    try:
        data = b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        data = b""
    if b64encode(data).rstrip(b"=") != text:
        raise damaged("base64 that is not well-formed")
    return data


def damaged(what: str) -> IncompleteError:
    """Return the error for a header that cannot be what a writer meant."""
    return IncompleteError(f"its header is damaged ({what}); take the file from where it came from again")


def write_header(stanzas: Sequence[Stanza], file_key: bytes) -> bytes:
    """Return the header, MAC included."""
    covered = _VERSION + b"".join(map(_stanza_text, stanzas)) + _END
    return b"%b %b\n" % (covered, to_base64(_mac(file_key, covered).finalize()).encode())


def read_header(file: BinaryIO) -> Header:
    """Read the header at ``file``'s position, which is then that of the payload.

    Raises IncompleteError for what is not an age file of version 1, and for a header that is not well-formed.
    """
    covered = bytearray(file.read(len(_VERSION)))
    if covered != _VERSION:
        raise IncompleteError("it is not a file of age, version 1 (text that begins with -----BEGIN is not taken)")
    stanzas = []
    while (line := _read_line(file, covered)).startswith(_STANZA):
        stanzas.append(_read_stanza(line, file, covered))
    mark, _, text = line.partition(b" ")
    mac = from_base64(text)
    if mark != _END or len(mac) != SHA256.digest_size:
        raise damaged("a line that is neither a stanza nor the end")
    if not stanzas:
        raise damaged("it names no way to open the file")
    return Header(tuple(stanzas), bytes(covered[: -len(b" " + text + b"\n")]), mac)


def _read_stanza(line: bytes, file: BinaryIO, covered: bytearray) -> Stanza:
    if not _argument_line.fullmatch(line):
        raise damaged("a stanza's arguments")
    body = [_read_line(file, covered)]
    while len(body[-1]) == _COLUMNS:
        body.append(_read_line(file, covered))
    if len(body[-1]) > _COLUMNS:
        raise damaged("a line that is too long")
    return Stanza(tuple(line.decode("ascii").split(" ")[1:]), from_base64(b"".join(body)))


def _read_line(file: BinaryIO, covered: bytearray) -> bytes:
    line = file.readline(HEADER_LIMIT - len(covered))
    covered += line
    if not line.endswith(b"\n"):
        raise damaged("it does not end")
    return line[:-1]


def _stanza_text(stanza: Stanza) -> bytes:
    body = to_base64(stanza.body)
    # The last line is always shorter than the others, even if it has to be empty: so a reader knows where it ends.
    lines = [body[start : start + _COLUMNS] for start in range(0, len(body) + 1, _COLUMNS)]
    return "\n".join([" ".join(("->", *stanza.arguments)), *lines, ""]).encode("ascii")


def _mac(file_key: bytes, covered: bytes) -> HMAC:
    mac = HMAC(derive(file_key, None, b"header"), SHA256())
    mac.update(covered)
    return mac
