"""Writes a package's content into its file, or into parts of bounded size: hashed, layered, then read back and counted.

Nothing is visible before ``commit``. A part is a whole file of its format, and holds whole documents.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Self

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.bson_fields import fields
from export_pipeline.formats.extended_json import EncodingError, encode_value
from export_pipeline.formats.protocol import About, Format, SplittingWriter, Survey, WriteOptions, Writer
from export_pipeline.mongo.bson_stream import Piece
from export_pipeline.packages.hashing import HashingSink, sha256_of
from export_pipeline.packages.layers import Layers, Lock, media_type_of, open_layers, outer_compression
from export_pipeline.packages.manifest import FileReport, PartReport
from export_pipeline.packages.naming import part_name
from export_pipeline.packages.publish import Target
from export_pipeline.packages.verify import check_counts
from export_pipeline.storage import PendingFile


@dataclass(frozen=True, slots=True)
class Form:
    """In which form a package is written."""

    format: Format
    options: WriteOptions
    lock: Lock | None = None

    @property
    def has_layers(self) -> bool:
        """Whether what is stored is not the content itself."""
        return self.lock is not None or outer_compression(self.format, self.options) != "none"


@dataclass(frozen=True, slots=True)
class WrittenCollection:
    """What was written of a collection: which documents, and which bytes of the content they are."""

    documents: int
    renamed: int
    """Documents of which a field made place for the tag."""
    offset: int
    bytes: int
    sha256: str
    first_id: Any
    last_id: Any
    """In canonical Extended JSON; None where there is none."""


class PackageFiles:
    """One package's files while they are written. Leaving the block without ``commit`` leaves nothing behind."""

    def __init__(self, target: Target, form: Form, survey: Survey | None, about: About) -> None:
        self._target = target
        self._form = form
        self._survey = survey
        self._about = about
        self._stack = ExitStack()
        self._parts: list[_Part] = []
        self._stored = hashlib.sha256()
        self._section = hashlib.sha256()
        self._renamed = 0
        self.size = 0
        """Bytes of content so far."""

    def __enter__(self) -> Self:
        self._begin_part()
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts:
            part.layers.give_up()  # which a finished one does not mind
        self._stack.close()

    def write_collection(
        self, collection: str, pieces: Iterable[Piece], on_documents: Callable[[int], None] = lambda _: None
    ) -> WrittenCollection:
        """Write all documents of ``collection``."""
        self._section, begins = hashlib.sha256(), self.size
        documents = self._renamed = 0
        first = last = None
        for piece in pieces:
            self._write(collection, piece)
            first, last = first or piece.first, piece.last
            documents += len(piece)
            on_documents(len(piece))
        self._renamed += self._parts[-1].writer.end_collection()
        size, sha256 = self.size - begins, self._section.hexdigest()
        return WrittenCollection(documents, self._renamed, begins, size, sha256, _id_of(first), _id_of(last))

    def finish(self) -> None:
        """End the last part. Raises IncompleteError, as the end of each part does, where it does not read back."""
        self._end_part()

    def parts(self) -> tuple[PartReport, ...]:
        """Return what each file is, once they are finished."""
        return tuple(part.report() for part in self._parts)

    def report(self) -> FileReport:
        """Return what the files are together, once they are finished."""
        first = self._parts[0].stored
        return FileReport(
            name=self._target.name,
            format=self._form.format.name,
            media_type=media_type_of(self._form.format, self._form.options),
            bytes=sum(part.stored.size for part in self._parts),
            sha256=self._stored.hexdigest() if self._form.options.split_bytes else first.sha256(),
        )

    def commit(self) -> None:
        """Put the files in their place."""
        for part in self._parts:
            part.file.commit()

    def _write(self, collection: str, piece: Piece) -> None:
        begin = 0
        while begin < len(piece):
            part = self._parts[-1]
            count = self._fitting(part, collection, piece, begin)
            if not count and part.documents:
                self._end_part()
                self._begin_part()
                continue
            count = count or 1  # a document larger than a part has one of its own
            part.writer.write(collection, piece.cut(begin, begin + count))
            part.documents[collection] += count
            begin += count

    def _fitting(self, part: "_Part", collection: str, piece: Piece, begin: int) -> int:
        """Return how many of the piece's documents, from ``begin``, surely fit into the part."""
        count = len(piece) - begin
        limit = self._form.options.split_bytes
        while limit and count and part.largest(collection, piece.size(begin, begin + count), count) > limit:
            count //= 2
        return count

    def _begin_part(self) -> None:
        name = self._target.name
        if self._form.options.split_bytes:
            name = part_name(name, len(self._parts), self._form.format, self._form.options)
        file = self._stack.enter_context(self._target.create(name))
        part = _Part(name, file, self._form, self)
        part.writer = self._form.format.writer(part.content, self._form.options, self._survey, self._about)
        self._parts.append(part)

    def _end_part(self) -> None:
        """End the part and read it back, now, since until then some storages keep what they sent last in memory.

        Raises IncompleteError where the bytes are not those that were written, or the documents not those counted.
        """
        part = self._parts[-1]
        self._renamed += part.writer.end_collection()
        part.writer.close()
        del part.writer  # the package may wait for others, and must not hold memory meanwhile
        part.layers.close()
        part.verify()

    def count_content(self, data: Any) -> None:
        """Take note of content on its way into a part."""
        self._section.update(data)
        self.size += len(data)

    def count_stored(self, data: Any) -> None:
        """Take note of what is stored."""
        self._stored.update(data)


class _Part:
    """One file: what the writer puts into ``content`` goes through the layers and is ``stored``."""

    writer: Writer

    def __init__(self, name: str, file: PendingFile, form: Form, files: PackageFiles) -> None:
        self.name = name
        self.file = file
        self._form = form
        self.documents: Counter[str] = Counter()
        notes = [files.count_stored] if form.options.split_bytes else []
        if form.has_layers:
            self.stored = HashingSink(file.write, *notes)
            self.layers = Layers(self.stored, outer_compression(form.format, form.options), form.lock)
            self.content = HashingSink(self.layers.write, files.count_content)
        else:
            self.stored = self.content = HashingSink(file.write, files.count_content, *notes)
            self.layers = Layers(self.stored, "none", None)

    def largest(self, collection: str, size: int, documents: int) -> int:
        """Return how large the file may get with so many more documents, of ``size`` bytes."""
        assert isinstance(self.writer, SplittingWriter)
        to_come = self.layers.held + self.writer.to_come(collection, size, documents)
        return self.stored.size + to_come + to_come // 1024  # age adds 16 bytes to 64 KiB, compressors less

    def verify(self) -> None:
        with self.file.read_back() as written:
            if sha256_of(written) != self.stored.sha256():
                raise IncompleteError("the file read back is not the file written; the disk may be failing")
        if self._form.has_layers:
            with self.file.read_back() as written:
                if sha256_of(self._open(written)) != self.content.sha256():
                    raise IncompleteError("the file read back does not open to what was written")
        with self.file.read_back() as written:
            found = self._form.format.count(self._open(written))
        check_counts(found, self.documents)

    def _open(self, stored: Any) -> Any:
        return open_layers(stored, self._form.format, self._form.options, self.layers.keys)

    def report(self) -> PartReport:
        return PartReport(
            name=self.name,
            bytes=self.stored.size,
            sha256=self.stored.sha256(),
            content_bytes=self.content.size,
            content_sha256=self.content.sha256(),
            documents=dict(self.documents),
        )


def _id_of(document: bytes | None) -> Any:
    """Return a document's ``_id`` in canonical Extended JSON.

    None where it has none, as in some views, or one that is damaged, which no format but BSON takes.
    """
    if document is None:
        return None
    # Nearly all are one of these two, and a batch has tens of thousands of first and last documents.
    if document.startswith(b"\x07_id\0", 4):
        return {"$oid": document[9:21].hex()}
    if document.startswith(b"\x02_id\0", 4):
        end = 12 + int.from_bytes(document[9:13], "little")
        with suppress(UnicodeDecodeError):
            return document[13:end].decode()
    with suppress(EncodingError):
        for found in fields(document, 0, len(document)):
            if found.name == b"_id":
                text = encode_value(document[found.begin], document[found.value : found.end], "canonical")
                return _without_surrogates(json.loads(text))
    return None


def _without_surrogates(value: Any) -> Any:
    """Return a JSON value with its halves of surrogate pairs written out, since no manifest can hold them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    return value
