"""Nested Parquet, for backups: a file per collection, with structs and lists where the documents agree.

``_doc`` is the whole document as canonical Extended JSON, so that a file restores exactly; without it, ``_rest`` holds
what no column could. ``nested_schema`` says which columns there are. Users' exports are one tagged file for all
collections, so this format is not in the table of formats.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.formats.extended_json import EncodingError, encode_documents
from export_pipeline.formats.nested_columns import Fields, document, json_array
from export_pipeline.formats.nested_schema import (
    MOST_PLACES,
    NestedSurvey,
    Place,
    arrow_field,
    leaves,
    refuse,
    the_one_collection,
)
from export_pipeline.formats.parquet_reading import opened, row_groups
from export_pipeline.formats.parquet_schema import arrow_type
from export_pipeline.formats.protocol import About, Sink, Survey, WriteOptions
from export_pipeline.mongo.bson_stream import Piece

if TYPE_CHECKING:
    import pyarrow as pa

# What it takes for events of 566 bytes and 33 fields, in microseconds of one core a document (Python 3.11): 25 for the
# survey, 75 to write with ``_doc``, 50 without; the tagged Parquet in the same run 4, 45 and 16. Nearly all of the
# difference is Python that looks at each field, at every depth.

ROW_GROUP_BYTES = 4 << 20
"""How much BSON gathers into a row group: enough to compress and skip well, little enough to hold in memory."""

_MORE_FOR_A_COLUMN = 16 << 10
"""By how much row groups grow with each column: the description of a group's column stays in memory to the end."""

_MOST_GATHERED = 16 << 20
"""Bytes of Arrow that are gathered, however small the documents."""

_WINDOW_BYTES = 512 << 10
"""How much BSON is taken apart before arrays are made of it: until then a value is a Python object."""

_COLLECTION = b"mongodb_collection"


class _NestedParquetWriter:
    def __init__(self, sink: Sink, options: WriteOptions, survey: NestedSurvey) -> None:
        import pyarrow as pa  # imported here: it costs half a second, and most commands write no Parquet
        from pyarrow import parquet

        self._lossless = options.lossless
        self._schema = _schema(survey, lossless=options.lossless)
        self._fields = Fields(survey.root)
        columns = [leaf for name, place in survey.root.fields.items() for leaf in leaves(_label(name), place)]
        typed = [(path, type_) for path, type_ in columns if type_ != "json"]
        self._file = parquet.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            self._schema,
            compression="zstd",
            use_dictionary=[path for path, _ in typed if path != "_id"],  # ids and documents do not repeat
            write_statistics=[path for path, type_ in typed if path == "_id" or type_ not in ("string", "binary")],
            write_page_checksum=True,
        )
        self._collection: str | None = None
        self._gathered: list[pa.RecordBatch] = []
        self._gathered_bytes = self._gathered_arrow = 0
        self._row_group_bytes = ROW_GROUP_BYTES + _MORE_FOR_A_COLUMN * len(columns)

    def write(self, collection: str, piece: Piece) -> None:
        """See ``Writer.write``. Raises ValueError for a second collection."""
        self._collection = the_one_collection(self._collection, collection)
        begin, rests = 0, list[bytes]()
        try:
            for start, stop in pairwise([*piece.offsets, len(piece.data)]):
                rests.append(self._fields.add(len(rests), piece.data, start, stop))
                if stop - begin >= _WINDOW_BYTES or stop == len(piece.data):
                    self._gather(piece.data[begin:stop], rests)
                    begin, rests = stop, []
        except EncodingError as error:
            refuse(collection, piece, error)

    def end_collection(self) -> int:
        """See ``Writer.end_collection``. There is no tag, so nothing gives way to it."""
        self._put_down()
        return 0

    def close(self) -> None:
        self._put_down()
        if self._collection is not None:
            self._file.add_key_value_metadata({_COLLECTION: self._collection.encode()})
        self._file.close()

    def _gather(self, documents: bytes, rests: list[bytes]) -> None:
        import pyarrow as pa

        arrays = self._fields.arrays(len(rests))
        if self._lossless:
            arrays.append(pa.array(encode_documents(documents, "canonical", self._collection), pa.string()))
        else:
            arrays.append(_rest(rests))
        self._gathered.append(pa.record_batch(arrays, schema=self._schema))
        self._gathered_bytes += len(documents)
        self._gathered_arrow += sum(array.nbytes for array in arrays)
        if self._gathered_bytes >= self._row_group_bytes or self._gathered_arrow >= _MOST_GATHERED:
            self._put_down()

    def _put_down(self) -> None:
        """End the row group."""
        import pyarrow as pa

        if self._gathered:
            self._file.write_table(pa.Table.from_batches(self._gathered))
            self._gathered.clear()
            self._gathered_bytes = self._gathered_arrow = 0


class NestedParquet:
    """One table for one collection. Not in ``registry.FORMATS``."""

    name = "nested_parquet"
    extension = "parquet"
    media_type = "application/vnd.apache.parquet"
    takes = frozenset({"lossless"})
    compresses_inside = True

    def survey(self, options: WriteOptions, about: About | None = None) -> NestedSurvey:  # noqa: ARG002
        """See ``Format.survey``."""
        return NestedSurvey()

    def writer(
        self,
        sink: Sink,
        options: WriteOptions,
        survey: Survey | None = None,
        about: About | None = None,  # noqa: ARG002
    ) -> _NestedParquetWriter:
        """See ``Format.writer``. Without a survey no field has a column; what it did not see is in the last alone."""
        return _NestedParquetWriter(sink, options, survey if isinstance(survey, NestedSurvey) else NestedSurvey())

    def count(self, file: BinaryIO) -> Counter[str]:
        """See ``Format.count``. Every column is read, and its checksums with it; all rows are of one collection."""
        found: Counter[str] = Counter()
        collection = ((opened(file).metadata.metadata or {}).get(_COLLECTION) or b"").decode()
        for group in row_groups(file):
            found[collection] += group.num_rows
        if found and not collection:
            raise IncompleteError("the file is Parquet, but does not say of which collection")
        return found


def documents(file: BinaryIO) -> Iterator[bytes]:
    """Yield each document of a finished file as a line of canonical Extended JSON, without a tag or a line break.

    Raises BadInputError where the file was written with ``lossless: false``, IncompleteError where it is damaged.
    """
    import pyarrow as pa

    if "_doc" not in opened(file).schema_arrow.names:
        raise BadInputError("the file does not hold whole documents: it was written with lossless false")
    for group in row_groups(file, ["_doc"]):
        for chunk in group.column("_doc").chunks:
            yield from chunk.cast(pa.binary()).to_pylist()


def _schema(survey: NestedSurvey, *, lossless: bool) -> "pa.Schema":
    import pyarrow as pa

    if lossless:
        last = pa.field("_doc", pa.string(), metadata={"content": "the whole document, canonical Extended JSON"})
    else:
        last = pa.field(
            "_rest", arrow_type("json"), metadata={"content": "what no column holds, canonical Extended JSON"}
        )
    note = f"only in {last.name}: there were more than {MOST_PLACES} names, or very long ones"
    own = [_top_field(name, place) for name, place in survey.root.fields.items()]
    return pa.schema([*own, last], metadata={"other_fields": note if survey.left_out else "none"})


def _top_field(name: bytes, place: Place) -> "pa.Field":
    label = _label(name)
    return arrow_field(label, place, **({} if label.encode() == name else {"mongodb_field": name}))


def _label(name: bytes) -> str:
    """Return a top-level field's column: fields called like the file's own columns give way.

    >>> _label(b"_doc"), _label(b"__rest"), _label(b"_col")
    ('__doc', '___rest', '_col')
    """
    return ("_" if re.fullmatch(b"_+(doc|rest)", name) else "") + name.decode()


def _rest(rests: list[bytes]) -> "pa.Array":
    left = iter(encode_documents(b"".join(document(rest) for rest in rests if rest), "canonical"))
    return json_array([next(left) if rest else None for rest in rests])
