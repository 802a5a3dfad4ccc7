"""Parquet: a table with the tag ``_col``, ``_id`` as text, and ``_doc``, the whole document as canonical Extended JSON.

Each collection has row groups of its own, so that the statistics of ``_col`` let readers skip the others.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any, BinaryIO

from bson import ObjectId, encode

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.extended_json import encode_document, encode_documents
from export_pipeline.formats.protocol import Sink, Survey, WriteOptions
from export_pipeline.mongo.bson_stream import Piece, documents, view

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_BYTES = 8 << 20
"""How much BSON gathers into a row group: enough to compress and skip well, little enough to hold in memory."""


class _ParquetWriter:
    def __init__(self, sink: Sink) -> None:
        import pyarrow as pa  # imported here: it costs half a second, and most commands write no Parquet
        from pyarrow import parquet

        self._schema = pa.schema(
            [("_col", pa.dictionary(pa.int32(), pa.string())), ("_id", pa.string()), ("_doc", pa.string())]
        )
        self._file = parquet.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            self._schema,
            compression="zstd",
            use_dictionary=["_col"],  # ids and documents do not repeat
            write_statistics=["_col", "_id"],
        )
        self._gathered: list[pa.RecordBatch] = []
        self._gathered_bytes = 0

    def write(self, collection: str, piece: Piece) -> int:
        import pyarrow as pa

        tags = pa.DictionaryArray.from_arrays(pa.array([0] * len(piece), pa.int32()), [collection])
        ids = pa.array([_id_text(view(document).get("_id")) for document in documents(piece.data)], pa.string())
        texts = pa.array(encode_documents(piece.data, "canonical", collection), pa.string())
        self._gathered.append(pa.record_batch([tags, ids, texts], schema=self._schema))
        self._gathered_bytes += len(piece.data)
        if self._gathered_bytes >= ROW_GROUP_BYTES:
            self.end_collection()
        return 0  # the tag has a column of its own, so no field is in its way

    def end_collection(self) -> None:
        import pyarrow as pa

        if self._gathered:
            self._file.write_table(pa.Table.from_batches(self._gathered))
            self._gathered.clear()
            self._gathered_bytes = 0

    def close(self) -> None:
        self._file.close()


class Parquet:
    """One table for all collections."""

    name = "parquet"
    extension = "parquet"
    media_type = "application/vnd.apache.parquet"

    def survey(self, options: WriteOptions) -> None:
        """See ``Format.survey``: none is needed."""

    def writer(self, sink: Sink, options: WriteOptions, survey: Survey | None = None) -> _ParquetWriter:  # noqa: ARG002
        """See ``Format.writer``."""
        return _ParquetWriter(sink)

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``. Every column is read, not the tag alone: a damaged page must not pass."""
        import pyarrow as pa
        from pyarrow import parquet

        found: Counter[str] = Counter()
        try:
            table = parquet.ParquetFile(file)
            for number in range(table.num_row_groups):  # one at a time: iterating over batches reads far ahead
                found.update(_count_tags(table.read_row_group(number, use_threads=False).column("_col")))
        except (pa.ArrowException, OSError, KeyError) as error:  # the last where there is no tag
            raise IncompleteError(f"the file is not Parquet to its end ({type(error).__name__})") from None
        return found


def _count_tags(column: "pa.ChunkedArray") -> dict[str, int]:
    return {item["values"]: item["counts"] for item in column.value_counts().to_pylist()}


def _id_text(value: Any) -> str | None:
    """Return an id as an analyst would type it; its exact type is in ``_doc``."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, ObjectId):
        return str(value)
    return encode_document(encode({"": value}), "relaxed")[len('{"":') : -1].decode()
