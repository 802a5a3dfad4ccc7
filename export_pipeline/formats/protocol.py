"""What a format is: a name, an extension, a writer over raw BSON, and a reader that counts what was written.

To add one: a module with a class like this, and a row in ``registry.FORMATS``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, BinaryIO, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from export_pipeline.formats.extended_json import Mode
from export_pipeline.mongo.bson_stream import Piece

Compression = Literal["none", "gzip", "zstd"]

SMALLEST_PART = 1_000_000
"""In bytes."""
MOST_RECIPIENTS = 20


class Sink(Protocol):
    """Where a writer puts its bytes."""

    def write(self, data: bytes) -> int:
        """Append ``data``."""


class WriteOptions(BaseModel):
    """What a request may choose about its file. ``Format.takes`` says which of it concerns a format."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    json_mode: Mode = "relaxed"
    """For JSON: relaxed is easy to read, canonical keeps every BSON type."""
    lossless: bool = True
    """For Parquet: whether the column ``_doc`` holds each whole document."""
    dotted: bool = False
    """For CSV and Excel: whether the fields of embedded documents, one level deep, get columns of their own."""
    formulas: bool = False
    """For CSV: whether cells that a spreadsheet would run as a formula stay as they are."""
    compression: Compression = "none"
    """For JSON and BSON; the others are compressed as they are."""
    split_bytes: int | None = Field(None, ge=SMALLEST_PART)
    """The most bytes of one file. What is more goes to further parts, each a whole file of its format."""
    recipients: Annotated[tuple[str, ...], Field(strict=False, max_length=MOST_RECIPIENTS)] = ()
    """The public keys (age1…) of those who can open the file; nobody else can. None: it is not encrypted for anyone."""
    passphrase: bool = False
    """Whether a passphrase opens the file; it is kept elsewhere."""


@dataclass(frozen=True, slots=True)
class CollectionAbout:
    """What the catalogue says of a collection."""

    name: str
    plugin: str
    category: str | None = None
    purpose: str | None = None
    retention: str | None = None
    source: str | None = None
    time_field: str | None = None
    time_unit: str | None = None
    """s, ms or date."""


@dataclass(frozen=True, slots=True)
class About:
    """What the file is about, for a format that tells its reader."""

    request_id: str
    app_id: str
    uids: tuple[str, ...] = field(repr=False)
    requested_by: str
    requested_at: datetime
    read_at: datetime
    """The moment of which all that is in the file was true."""
    collections: Mapping[str, CollectionAbout]
    """By the collection's full name: those that were looked into, whether they hold anything or not."""
    narrowed_by: tuple[str, ...] = ()
    """What kept a part of it out, by the names of a request's narrowing: since, fields, limit."""


class Survey(Protocol):
    """A first look at all documents, for a format that must know their fields before it writes the first."""

    def see(self, collection: str, piece: Piece) -> None:
        """Take note of documents of ``collection``. What is kept must not grow with their number."""


class Writer(Protocol):
    """Writes one file. Documents come collection by collection, as a survey saw them."""

    def write(self, collection: str, piece: Piece) -> None:
        """Write documents of ``collection``."""

    def end_collection(self) -> int:
        """Put down all that was written of the collection, so that its bytes end here.

        Returns how many of its documents had to have a field of their own called ``_col`` renamed.
        """

    def close(self) -> None:
        """Write what ends the file. The sink stays open."""


@runtime_checkable
class SplittingWriter(Writer, Protocol):
    """A writer of a format that can be split: it knows how much may yet come."""

    def to_come(self, collection: str, size: int, documents: int) -> int:
        """Return the most bytes that would yet go to the sink, up to the file's end.

        That is with ``documents`` more of ``collection``, of ``size`` bytes of BSON, and with all that is held back.
        """


class Format(Protocol):
    """One output format."""

    name: str
    extension: str
    media_type: str
    takes: frozenset[str]
    """The options of WriteOptions that concern it. With ``split_bytes``, its writers are SplittingWriters."""
    compresses_inside: bool
    """Whether it heeds ``compression`` within its file, rather than being compressed as a whole."""

    def survey(self, options: WriteOptions, about: About | None = None) -> Survey | None:
        """Return a survey to be shown all documents before ``writer`` is asked for; None where none is needed."""

    def writer(
        self, sink: Sink, options: WriteOptions, survey: Survey | None = None, about: About | None = None
    ) -> Writer:
        """Begin a file."""

    def count(self, file: BinaryIO) -> Counter[str]:
        """Read a finished file back, whole, and count its documents by ``_col``.

        Raises IncompleteError where the file is not of this format to its last byte.
        """


@runtime_checkable
class SharingFormat(Format, Protocol):
    """A format that writes a document alike in every file: the documents of many small files can be encoded at once."""

    def encode_together(self, collection: str, pieces: Sequence[Piece], options: WriteOptions) -> Sequence[Piece]:
        """Return pieces of one collection, for writers of different files with the same options, in their order.

        They are the same documents; their writers need less time for them.
        """
