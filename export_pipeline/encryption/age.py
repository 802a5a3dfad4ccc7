"""Writing and reading whole files of age; import from here.

Files are binary, for X25519 recipients or one passphrase: what the programs age and rage write and read too.
"""

import io
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from export_pipeline.encryption.header import Stanza, derive, read_header, write_header
from export_pipeline.encryption.keys import (
    Identity,
    Recipient,
    WrongKeyError,
    new_identity,
    parse_identities,
    parse_recipient,
)
from export_pipeline.encryption.stream import CHUNK, PayloadReader, PayloadWriter, Sink
from export_pipeline.encryption.wrapping import (
    FILE_KEY_BYTES,
    WORK_FACTOR,
    unwrap,
    wrap_for_recipient,
    wrap_with_passphrase,
)
from export_pipeline.errors import BadInputError, IncompleteError

__all__ = [
    "AgeWriter",
    "Identity",
    "Recipient",
    "WrongKeyError",
    "new_identity",
    "open_age",
    "parse_identities",
    "parse_recipient",
]

_NONCE_BYTES = 16


class AgeWriter:
    """Seals what is written for the recipients, or with the passphrase, and pushes it into ``sink``.

    The header is written at once; without ``close`` the file has no end, and no reader takes it. Memory is flat,
    except that a passphrase takes 256 MiB while the header is made. Raises BadInputError unless there are either
    recipients or a passphrase.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        recipients: Sequence[Recipient] = (),
        passphrase: str | None = None,
        work_factor: int = WORK_FACTOR,
    ) -> None:
        self.file_key = secrets.token_bytes(FILE_KEY_BYTES)
        """Opens this one file, for whoever wrote it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        stanzas = _wrapped(self.file_key, recipients, passphrase, work_factor)
        self._payload = PayloadWriter(sink, _payload_key(self.file_key, nonce))
        sink.write(write_header(stanzas, self.file_key) + nonce)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data``; return how many bytes that is."""
        return self._payload.write(data)

    def tell(self) -> int:
        """Return how many plain bytes have been written."""
        return self._payload.tell()

    def close(self) -> None:
        """Write the file's end. The sink stays open; closing again does nothing."""
        self._payload.close()


def open_age(
    file: BinaryIO,
    *,
    identities: Iterable[Identity] = (),
    passphrase: str | None = None,
    file_key: bytes | None = None,
    name: str = "age file",
) -> BinaryIO:
    """Open a file of age that begins at ``file``'s position and goes to its end; return its content, which can seek.

    ``file`` has to seek too; closing what is returned leaves it open. ``name`` is what errors call the file. Raises
    WrongKeyError where none of the keys opens it; BadInputError where its passphrase would take more work than is
    allowed; IncompleteError where it is not what was written. The header and the file's end are checked now, each
    chunk when it is read: not a byte is returned unproven.
    """
    with _errors_name(name):
        header = read_header(file)
        if file_key is None:
            file_key = unwrap(header.stanzas, identities, passphrase)
        header.verify(file_key)
    nonce = file.read(_NONCE_BYTES)
    return io.BufferedReader(PayloadReader(file, _payload_key(file_key, nonce), name=name), CHUNK)


def _wrapped(
    file_key: bytes, recipients: Sequence[Recipient], passphrase: str | None, work_factor: int
) -> list[Stanza]:
    if (passphrase is None) == (not recipients):
        raise BadInputError("encryption: give either recipients or a passphrase; a file of age takes one of the two")
    if passphrase is not None:
        return [wrap_with_passphrase(file_key, passphrase, work_factor)]
    return [wrap_for_recipient(file_key, recipient) for recipient in recipients]


def _payload_key(file_key: bytes, nonce: bytes) -> bytes:
    return derive(file_key, nonce, b"payload")


@contextmanager
def _errors_name(name: str) -> Iterator[None]:
    try:
        yield
    except (BadInputError, IncompleteError, WrongKeyError) as error:
        raise type(error)(f"{name}: {error}") from None
