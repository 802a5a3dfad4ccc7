"""Parquet: a table with the tag ``_col``, ``_id`` as text, and ``_doc``, the whole document as canonical Extended JSON.

Each collection has row groups of its own, so that the statistics of ``_col`` let readers skip the others.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any, BinaryIO

from bson import ObjectId, encode

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.extended_json import encode_document
from export_pipeline.formats.protocol import Sink, WriteOptions
from export_pipeline.mongo.bson_stream import Piece, documents, view

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_BYTES = 16 << 20
"""How much BSON gathers into a row group: enough to compress and skip well, little enough to hold in memory."""


class _ParquetWriter:
    def __init__(self, sink: Sink) -> None:
        import pyarrow as pa  # imported here: it costs half a second, and most commands write no Parquet
        from pyarrow import parquet

        self._schema = pa.schema(
            [("_col", pa.dictionary(pa.int32(), pa.string())), ("_id", pa.string()), ("_doc", pa.string())]
        )
        self._file = parquet.ParquetWriter(
            pa.PythonFile(sink, mode="w"), self._schema, compression="zstd", write_statistics=["_col", "_id"]
        )
        self._collection = ""
        self._ids: list[str | None] = []
        self._documents: list[str] = []
        self._gathered = 0

    def write(self, collection: str, piece: Piece) -> int:
        self._collection = collection
        for document in documents(piece.data):
            self._ids.append(_id_text(view(document).get("_id")))
            self._documents.append(encode_document(document, "canonical"))
        self._gathered += len(piece.data)
        if self._gathered >= ROW_GROUP_BYTES:
            self.end_collection()
        return 0  # the tag has a column of its own, so no field is in its way

    def end_collection(self) -> None:
        import pyarrow as pa

        if self._documents:
            rows = len(self._documents)
            tag = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [self._collection])
            batch = pa.record_batch([tag, pa.array(self._ids), pa.array(self._documents)], schema=self._schema)
            self._file.write_batch(batch)
            self._ids.clear()
            self._documents.clear()
            self._gathered = 0

    def close(self) -> None:
        self._file.close()


class Parquet:
    """One table for all collections."""

    name = "parquet"
    extension = "parquet"
    media_type = "application/vnd.apache.parquet"

    def writer(self, sink: Sink, options: WriteOptions) -> _ParquetWriter:  # noqa: ARG002  # no choices here
        """See ``Format.writer``."""
        return _ParquetWriter(sink)

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``. Every column is read, not the tag alone: a damaged page must not pass."""
        import pyarrow as pa
        from pyarrow import parquet

        found: Counter[str] = Counter()
        try:
            table = parquet.ParquetFile(file)
            for batch in table.iter_batches(batch_size=1024):
                found.update(_count_tags(batch.column("_col")))
        except (pa.ArrowException, OSError) as error:
            raise IncompleteError(f"the file is not Parquet to its end ({type(error).__name__})") from None
        return found


def _count_tags(column: "pa.Array") -> dict[str, int]:
    return {item["values"]: item["counts"] for item in column.value_counts().to_pylist()}


def _id_text(value: Any) -> str | None:
    """Return an id as an analyst would type it; its exact type is in ``_doc``."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, ObjectId):
        return str(value)
    return encode_document(encode({"": value}), "relaxed")[len('{"":') : -1]
