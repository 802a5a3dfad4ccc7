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
from export_pipeline.formats.extended_json import EncodingError
from export_pipeline.formats.parquet_arrays import repeated
from export_pipeline.formats.parquet_columns import WINDOW, CollectionColumns
from export_pipeline.formats.parquet_reading import row_groups
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

_DICTIONARY_BYTES = 32 << 10
"""Where a column has more than that of different values in a row group, a dictionary takes time and makes it larger."""


_PARTS_GATHERED = 8
"""Of the size of a part, the share that is gathered at most: how much smaller that will be in the file is not known."""

_MOST_GROWTH = 24
"""The most bytes of text for one of BSON, half of them in ``_doc``: two can stand for ``"":{"$undefined":true},``."""

_MOST_OF_A_CHUNK = 500
"""Bytes that describe the column of a row group, beside its name twice, at its place and at the file's end."""


class _ParquetWriter:
    def __init__(self, sink: Sink, options: WriteOptions, survey: ParquetSurvey) -> None:
        import pyarrow as pa  # imported here: it takes 45 MB, and most commands write no Parquet
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
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
            use_dictionary=[name for name in typed if name != "_id"],  # ids and documents do not repeat
            write_statistics=[
                name
                for name in typed
                if name == "_col"
                or not _is_text(self._schema, name)
                or (name == "_id" and not options.split_bytes)  # of texts, they are as long as those
            ],
        )
        self._collection = ""
        self._gathered: CollectionColumns | None = None
        self._gathered_bytes = self._row_groups = 0
        self._renamed = 0
        self._reserved = {column.name for column in self._columns if is_reserved(column.name)}
        self._nothing: dict[pa.DataType, pa.Array] = {}
        self._row_group_bytes = ROW_GROUP_BYTES + _MORE_FOR_A_COLUMN * len(self._columns)
        self._most_gathered = min(_MOST_GATHERED, (options.split_bytes or _MOST_GATHERED * 8) // _PARTS_GATHERED)

    def write(self, collection: str, piece: Piece) -> None:
        gathered = self._gathered_of(collection)
        bounds = [*piece.offsets, len(piece.data)]
        try:
            for begin in range(0, len(piece), WINDOW):
                window = bounds[begin : begin + WINDOW + 1]
                gathered.add(piece.data, window)
                self._gathered_bytes += window[-1] - window[0]
                if self._gathered_bytes >= self._row_group_bytes or gathered.size >= self._most_gathered:
                    self._put_down()
            if self._reserved:
                self._renamed += self._count_renamed(piece)
        except EncodingError as error:
            raise EncodingError(f"collection {collection!r}: {error}") from None

    def end_collection(self) -> int:
        self._put_down()
        self._gathered = None
        renamed, self._renamed = self._renamed, 0
        return renamed

    def close(self) -> None:
        self._file.close()

    def to_come(self, collection: str, size: int, documents: int) -> int:
        """See ``SplittingWriter.to_come``."""
        held, rows = (self._gathered.size, self._gathered.count) if self._gathered else (0, 0)
        new = _MOST_GROWTH * size + 16 * documents
        groups = self._row_groups + 2 + new // self._most_gathered + size // self._row_group_bytes
        # A dictionary adds at most two bytes to a value of four or more; where nulls are takes a bit for each.
        values = (held + new) * 3 // 2 + (rows + documents) * len(self._schema) // 8
        names = 2 * sum(len(name.encode()) for name in self._schema.names)
        chunks = groups * (_MOST_OF_A_CHUNK * len(self._schema) + names + 8 * len(collection.encode()))
        schema: int = 2 * self._schema.serialize().size + 200 * len(self._schema) + names
        return values + values // 64 + chunks + schema

    def _gathered_of(self, collection: str) -> CollectionColumns:
        if self._gathered is None or self._collection != collection:
            self._put_down()
            self._collection = collection
            self._gathered = CollectionColumns(self._survey, self._columns, collection, lossless=self._lossless)
        return self._gathered

    def _put_down(self) -> None:
        """End the row group, which is of one collection."""
        import pyarrow as pa

        if self._gathered is None or not self._gathered.count:
            return
        count = self._gathered.count
        made = self._gathered.arrays() | {"_col": repeated(self._collection, count)}
        arrays = [made[field.name] if field.name in made else self._nulls(field.type, count) for field in self._schema]
        self._gathered_bytes = 0
        self._row_groups += 1
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

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
    takes = frozenset({"lossless", "split_bytes"})
    compresses_inside = True

    def survey(self, options: WriteOptions, about: About | None = None) -> ParquetSurvey:  # noqa: ARG002
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
        found: Counter[str] = Counter()
        for group in row_groups(file):
            if "_col" not in group.column_names:
                raise IncompleteError("the file is Parquet, but its rows have no tag _col")
            found.update(_count_tags(group.column("_col")))
        return found


def _count_tags(column: "pa.ChunkedArray") -> dict[str, int]:
    return {item["values"]: item["counts"] for item in column.value_counts().to_pylist()}


def _is_json(field: "pa.Field") -> bool:
    import pyarrow as pa

    return isinstance(field.type, pa.JsonType)


def _is_text(schema: "pa.Schema", name: str) -> bool:
    import pyarrow as pa

    return schema.field(name).type in (pa.string(), pa.binary())
