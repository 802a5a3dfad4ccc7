"""Parquet: a table with the tag ``_col``, ``_id``, a typed column for each top-level field, and ``_doc``.

``_doc`` is the whole document as canonical Extended JSON, so nothing is lost; without it, ``_rest`` holds what no
column could. ``parquet_schema`` says which types columns have. Each collection has row groups of its own, so that the
statistics of ``_col`` let readers skip the others.
"""

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.bson_fields import fields
from export_pipeline.formats.extended_json import EncodingError, encode_documents
from export_pipeline.formats.parquet_columns import CollectionColumns, Rest, Window
from export_pipeline.formats.parquet_schema import ParquetSurvey, arrow_schema, is_reserved
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.mongo.bson_stream import Piece

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_BYTES = 4 << 20
"""How much BSON gathers into a row group: enough to compress and skip well, little enough to hold in memory."""

_MORE_FOR_A_COLUMN = 16 << 10
"""By how much row groups grow with each column: the description of a group's column stays in memory to the end."""

_MOST_GATHERED = 16 << 20
"""Bytes of Arrow that are gathered, however small the documents."""


class _ParquetWriter:
    def __init__(self, sink: Sink, options: WriteOptions, survey: ParquetSurvey) -> None:
        import pyarrow as pa  # imported here: it costs half a second, and most commands write no Parquet
        from pyarrow import parquet

        self._survey = survey
        self._columns = survey.columns()
        self._lossless = options.lossless
        self._schema = arrow_schema(self._columns, lossless=options.lossless, left_out=survey.left_out)
        texts = [field.name for field in self._schema if _is_json(field) or field.name == "_doc"]
        typed = [name for name in self._schema.names if name not in texts]
        self._file = parquet.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            self._schema,
            compression="zstd",
            use_dictionary=[name for name in typed if name != "_id"],  # ids and documents do not repeat
            write_statistics=[name for name in typed if name in ("_col", "_id") or not _is_text(self._schema, name)],
        )
        self._collections: dict[str, CollectionColumns] = {}
        self._renamed = 0
        self._reserved = {column.name for column in self._columns if is_reserved(column.name)}
        self._nothing: dict[pa.DataType, pa.Array] = {}
        self._gathered: list[pa.RecordBatch] = []
        self._gathered_bytes = self._gathered_arrow = 0
        self._row_group_bytes = ROW_GROUP_BYTES + _MORE_FOR_A_COLUMN * len(self._columns)

    def write(self, collection: str, piece: Piece) -> None:
        columns = self._collections.get(collection)
        if columns is None:
            self._collections.clear()  # documents come collection by collection
            columns = self._collections[collection] = CollectionColumns(self._survey, self._columns, collection)
        try:
            for window in columns.windows(piece.data, piece.offsets):
                self._gather(collection, piece.data, window)
            if self._reserved:
                self._renamed += self._count_renamed(piece)
        except EncodingError as error:
            raise EncodingError(f"collection {collection!r}: {error}") from None

    def end_collection(self) -> int:
        self._put_down()
        renamed, self._renamed = self._renamed, 0
        return renamed

    def _put_down(self) -> None:
        """End the row group."""
        import pyarrow as pa

        if self._gathered:
            self._file.write_table(pa.Table.from_batches(self._gathered))
            self._gathered.clear()
            self._gathered_bytes = self._gathered_arrow = 0

    def close(self) -> None:
        self._file.close()

    def _gather(self, collection: str, data: bytes, window: Window) -> None:
        import pyarrow as pa

        made = dict(window.arrays)
        made["_col"] = pa.DictionaryArray.from_arrays(pa.array([0] * window.count, pa.int32()), [collection])
        if self._lossless:
            lines = encode_documents(data[window.begin : window.end], "canonical", collection)
            made["_doc"] = pa.array(lines, pa.string())
        elif window.rest:
            made["_rest"] = _rest(window.count, window.rest, self._schema.field("_rest").type)
        self._gathered_arrow += sum(array.nbytes for array in made.values())
        arrays = [
            made[field.name] if field.name in made else self._nulls(field.type, window.count) for field in self._schema
        ]
        self._gathered.append(pa.record_batch(arrays, schema=self._schema))
        self._gathered_bytes += window.end - window.begin
        if self._gathered_bytes >= self._row_group_bytes or self._gathered_arrow >= _MOST_GATHERED:
            self._put_down()

    def _nulls(self, type_: "pa.DataType", count: int) -> "pa.Array":
        """Return nulls that share their memory: a collection lacks most columns of the others."""
        import pyarrow as pa

        if type_ not in self._nothing or len(self._nothing[type_]) < count:
            self._nothing[type_] = pa.nulls(count, type_)
        return self._nothing[type_][:count]

    def _count_renamed(self, piece: Piece) -> int:
        bounds = pairwise([*piece.offsets, len(piece.data)])
        return sum(
            any(found.name in self._reserved for found in fields(piece.data, start, stop)) for start, stop in bounds
        )


class Parquet:
    """One table for all collections."""

    name = "parquet"
    extension = "parquet"
    media_type = "application/vnd.apache.parquet"

    def survey(self, options: WriteOptions) -> ParquetSurvey:  # noqa: ARG002
        """See ``Format.survey``."""
        return ParquetSurvey()

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,
        survey: Survey | None = None,
        about: About | None = None,  # noqa: ARG002
    ) -> _ParquetWriter:
        """See ``Format.writer``. Without a survey, ``_id`` is the only field with a column."""
        return _ParquetWriter(sink, options, survey if isinstance(survey, ParquetSurvey) else ParquetSurvey())

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


def _rest(count: int, rest: Rest, type_: "pa.DataType") -> "pa.Array":
    import pyarrow as pa

    texts: list[bytes | None] = [None] * count
    documents = b"".join((len(left) + 5).to_bytes(4, "little") + left + b"\0" for left in rest.values())
    for place, text in zip(rest, encode_documents(documents, "relaxed"), strict=True):
        texts[place] = text
    return pa.ExtensionArray.from_storage(type_, pa.array(texts, pa.string()))


def _is_json(field: "pa.Field") -> bool:
    import pyarrow as pa

    return isinstance(field.type, pa.JsonType)


def _is_text(schema: "pa.Schema", name: str) -> bool:
    import pyarrow as pa

    return schema.field(name).type in (pa.string(), pa.binary())
