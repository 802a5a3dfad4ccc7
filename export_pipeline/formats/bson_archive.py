"""BSON: the stored documents byte for byte, in files laid out as mongorestore takes them, packed as a zip.

``dump/export/<collection>.bson`` and ``<collection>.metadata.json`` for each collection that has documents. Unpack
it, then ``mongorestore --nsFrom 'export.*' --nsTo 'other.*' dump``. The documents carry no tag: their file's name
is it.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.formats.zip_stream import ZipStream, collection_of, member_stem, members, whole
from export_pipeline.mongo.bson_stream import Piece, whole_documents

FOLDER = "dump/export/"
"""mongorestore takes the folder's name for the database's. The true one is not the reader's to know."""

_DOCUMENTS, _METADATA = ".bson", ".metadata.json"
_LARGEST_DOCUMENT = 17 << 20
"""In bytes: MongoDB stores 16 MB."""
_LARGEST_METADATA = 1 << 16


class _BsonWriter:
    def __init__(self, sink: Sink, *, compress: bool) -> None:
        self._zip = ZipStream(sink, compress=compress)
        self._collection: str | None = None

    def write(self, collection: str, piece: Piece) -> None:
        if collection != self._collection:
            stem = FOLDER + member_stem(collection)
            self._zip.begin(stem + _METADATA)
            self._zip.write(_metadata(collection))
            self._zip.begin(stem + _DOCUMENTS)
            self._collection = collection
        self._zip.write(piece.data)

    def end_collection(self) -> int:
        self._zip.end()
        self._collection = None
        return 0  # there is no tag to make place for

    def close(self) -> None:
        self._zip.close()

    def to_come(self, collection: str, size: int, documents: int) -> int:  # noqa: ARG002
        """See ``SplittingWriter.to_come``."""
        return size + self._zip.to_come(2 * len(FOLDER + member_stem(collection)) + len(_metadata(collection)) + 400)


class BsonArchive:
    """A dump in a zip file; not compressed, it is as fast as the reading."""

    name = "bson"
    extension = "bson.zip"
    media_type = "application/zip"
    takes = frozenset({"compression", "split_bytes"})
    compresses_inside = True

    def survey(self, options: WriteOptions, about: About | None = None) -> None:
        """See ``Format.survey``: none is needed."""

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,
        survey: Survey | None = None,  # noqa: ARG002
        about: About | None = None,  # noqa: ARG002
    ) -> _BsonWriter:
        """See ``Format.writer``."""
        return _BsonWriter(sink, compress=options.compression == "gzip")

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``."""
        found: Counter[str] = Counter()
        for collection, content in _collections(file):
            found[collection] = sum(len(offsets) for _, offsets in _pieces(content))
        return found


def documents(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield each document of an archive with its collection. Raises IncompleteError for damage."""
    for collection, content in _collections(file):
        for data, offsets in _pieces(content):
            for begin, end in pairwise([*offsets, len(data)]):
                yield collection, data[begin:end]


def _collections(file: BinaryIO) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield each collection and the chunks of its documents."""
    announced: str | None = None
    for name, content in members(file):
        if announced is None:
            announced = collection_of(name, FOLDER, _METADATA)
            if _named_in(whole(content, _LARGEST_METADATA)) != announced:
                raise IncompleteError("a collection's metadata are not its own")
        elif collection_of(name, FOLDER, _DOCUMENTS) != announced:
            raise IncompleteError("a collection's metadata are not followed by its documents")
        else:
            yield announced, content
            announced = None
    if announced is not None:
        raise IncompleteError("a collection's metadata are not followed by its documents")


def _metadata(collection: str) -> bytes:
    """Return what mongodump says of a collection; a person's documents need no other index than the one on _id."""
    indexes = [{"v": 2, "key": {"_id": 1}, "name": "_id_"}]
    said = {"options": {}, "indexes": indexes, "collectionName": collection, "type": "collection"}
    return json.dumps(said, separators=(",", ":")).encode()


def _named_in(metadata: bytes) -> object:
    try:
        said = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    return said.get("collectionName") if isinstance(said, dict) else None


def _pieces(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, list[int]]]:
    """Yield whole documents end to end, and where each begins."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        offsets, end = whole_documents(data)
        yield data[:end], offsets
        rest = data[end:]
        if len(rest) > _LARGEST_DOCUMENT:
            raise IncompleteError("a document is larger than a document can be")
    if rest:
        raise IncompleteError("a collection ends in the middle of a document")
