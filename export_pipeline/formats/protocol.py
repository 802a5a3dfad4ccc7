"""What a format is: a name, an extension, a writer over raw BSON, and a reader that counts what was written.

To add one: a module with a class like this, and a row in ``registry.FORMATS``.
"""

from collections import Counter
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from export_pipeline.formats.extended_json import Mode
from export_pipeline.mongo.bson_stream import Piece


class Sink(Protocol):
    """Where a writer puts its bytes."""

    def write(self, data: bytes) -> int:
        """Append ``data``."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What a request may choose about its file."""

    json_mode: Mode = "relaxed"


class Writer(Protocol):
    """Writes one file. Documents come collection by collection."""

    def write(self, collection: str, piece: Piece) -> int:
        """Write documents of ``collection``; return how many had to have a field of their own called _col renamed."""

    def end_collection(self) -> None:
        """Put down all that was written of the collection, so that its bytes end here."""

    def close(self) -> None:
        """Write what ends the file. The sink stays open."""


class Format(Protocol):
    """One output format."""

    name: str
    extension: str
    media_type: str

    def writer(self, sink: Sink, options: WriteOptions) -> Writer:
        """Begin a file."""

    def count(self, file: BinaryIO) -> Counter[str]:
        """Read a finished file back, whole, and count its documents by ``_col``.

        Raises IncompleteError where the file is not of this format to its last byte.
        """
