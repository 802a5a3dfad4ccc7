"""Reading a file back as the documents that it was made of, for the formats that keep all of them.

Each reader takes a file's content and yields the documents in the order in which they were written.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats import bson_archive, html
from export_pipeline.formats.extended_json_reader import TaggedDocument, decode_document, decode_line
from export_pipeline.formats.parquet_reading import row_groups
from export_pipeline.formats.protocol import WriteOptions
from export_pipeline.mongo.bson_stream import PIECE_BYTES, Piece


def is_lossless(format_name: str, options: WriteOptions) -> bool:
    """Tell whether a file of this format, written with these options, gives back what was stored."""
    if format_name in ("json", "jsonl"):
        return options.json_mode == "canonical"
    if format_name == "parquet":
        return options.lossless
    return format_name in _READERS


def documents(format_name: str, file: BinaryIO) -> Iterator[TaggedDocument]:
    """Yield the documents of a lossless file. Raises IncompleteError or DecodingError for what is none."""
    return _READERS[format_name](file)


def pieces(collection: str, tagged: Iterator[TaggedDocument]) -> Iterator[Piece]:
    """Gather documents of one collection into pieces of bounded size. Raises IncompleteError for those of another."""
    data, offsets = bytearray(), list[int]()
    for document in tagged:
        if document.collection != collection:
            raise IncompleteError(f"a document of {document.collection} stands among those of {collection}")
        offsets.append(len(data))
        data += document.document
        if len(data) >= PIECE_BYTES:
            yield Piece(bytes(data), offsets)
            data, offsets = bytearray(), []
    if offsets:
        yield Piece(bytes(data), offsets)


def _json(file: BinaryIO) -> Iterator[TaggedDocument]:
    for line in file:
        if line not in (b"[\n", b"]\n"):
            yield decode_line(line)


def _parquet(file: BinaryIO) -> Iterator[TaggedDocument]:
    for rows in row_groups(file, ["_col", "_doc"]):
        for collection, text in zip(rows["_col"], rows["_doc"], strict=True):
            yield TaggedDocument(collection.as_py(), decode_document(text.as_py().encode("utf-8", "surrogatepass")))


def _html(file: BinaryIO) -> Iterator[TaggedDocument]:
    return (decode_line(line) for _, line in html.documents(file))


def _bson(file: BinaryIO) -> Iterator[TaggedDocument]:
    return (TaggedDocument(collection, document) for collection, document in bson_archive.documents(file))


_READERS: Mapping[str, Callable[[BinaryIO], Iterator[TaggedDocument]]] = {
    "json": _json,
    "jsonl": _json,
    "parquet": _parquet,
    "html": _html,
    "bson": _bson,
}
