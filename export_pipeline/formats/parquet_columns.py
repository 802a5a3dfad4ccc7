"""Raw BSON documents to the columns of one collection: by shape where they have one, else walked field by field."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, Any

from export_pipeline.formats import parquet_schema as schema
from export_pipeline.formats.bson_fields import LARGE_LONG, Field, fields
from export_pipeline.formats.bson_shapes import DiffersError
from export_pipeline.formats.bson_walk import quote
from export_pipeline.formats.extended_json import encode_documents
from export_pipeline.formats.parquet_arrays import gathered
from export_pipeline.formats.parquet_schema import Column, ColumnType, ParquetSurvey, Surveyed
from export_pipeline.formats.parquet_shapes import ShapeColumns, Values

if TYPE_CHECKING:
    import pyarrow as pa

# What it takes, in microseconds of CPU for each of 50,000 events (566 bytes, 15 fields, three of them nested; 2 shared
# cores, Python 3.11); draining find_raw_batches of the same, server included, takes 3.5:
#
#   the survey            1.2
#   writing with _doc    11
#   writing without       8
#
# Alone, and with all of the processor: the regular expression 1.4, reading its groups 1.3 (a third of that comparing
# lengths), _doc 1.8, the JSON of nested fields 1.0, gathering into buffers 1.0, the other columns 0.3, pyarrow 1.4
# (half of that _doc). Documents that are not alike inside, as where names are data, are walked: 30, and 50 with _doc.
#
# Of the 105 MB over an idle process, importing pyarrow is 45, the pieces that are read 20, a row group the rest.

WINDOW = 128
"""Documents to be made columns together: enough for columns to pay, few enough for the cache."""

_LONGEST_PAUSE = 64
"""Windows; by then documents may have become alike."""

_Rows = dict[str, Values]
"""Columns by label; those without a value may be left out."""

_NO_PLACE = object()

_int32 = Struct("<i")
_int64 = Struct("<q")
_double = Struct("<d")


def _number(layout: Struct) -> Callable[[bytes, Field], Any]:
    unpack = layout.unpack_from
    return lambda data, found: unpack(data, found.value)[0]


def _text(data: bytes, found: Field) -> bytes:
    raw = data[found.value + 4 : found.end - 1]
    raw.decode()
    return raw


def _whole(data: bytes, found: Field) -> bytes:
    return data[found.begin : found.end]


_LONGS: dict[str, Callable[[bytes, Field], Any]] = {"int": _number(_int32), "long": _number(_int64)}
_READ: dict[ColumnType, dict[str, Callable[[bytes, Field], Any]]] = {
    "int32": {"int": _number(_int32)},
    "int64": {**_LONGS, LARGE_LONG: _number(_int64)},
    "double": {**_LONGS, "double": _number(_double)},
    "bool": {"bool": lambda data, found: data[found.value]},
    "timestamp": {"date": _number(_int64)},
    "string": {"string": _text},
    "objectid": {"objectId": lambda data, found: data[found.value : found.end].hex().encode()},
    "binary": {"binData": lambda data, found: data[found.value + 5 : found.end]},
}
"""How a value of each kind that a column of a type holds is read. Columns of other types hold all kinds, as text."""


class CollectionColumns:
    """Makes and gathers the columns of one collection's documents."""

    def __init__(self, survey: ParquetSurvey, columns: Sequence[Column], collection: str, *, lossless: bool) -> None:
        surveyed = survey.collections.get(collection)
        own = [column for column in columns if surveyed is None or column.name in surveyed.kinds]
        self._collection = collection
        self._lossless = lossless
        self._columns = {column.name: column for column in own}
        self._shape = _shape_columns(surveyed, own, lossless=lossless)
        self._gathered = {column.label: gathered(schema.arrow_type(column.type_)) for column in own}
        if lossless:
            self._gathered["_doc"] = gathered(schema.arrow_type("string"))
        else:
            self._gathered["_rest"] = gathered(schema.arrow_type("json"))
        # For how many times not to try the shape, after it has fitted few documents; each time for twice as long.
        self._pause, self._next_pause = 0, 1
        self.count = 0
        """Documents gathered."""
        self.size = 0
        """Bytes gathered, as Arrow stores them."""

    def add(self, data: bytes, bounds: Sequence[int]) -> None:
        """Gather the few documents between ``bounds``. Raises EncodingError."""
        rows = None
        if self._pause:
            self._pause -= 1
        elif self._shape:
            rows = self._by_shape(data, bounds, self._shape)
        if rows is None:
            rows = self._walked(data, list(pairwise(bounds)))
        for label, values in rows.items():
            column = self._gathered[label]
            column.fill(self.count)
            self.size += column.extend(values)
        self.count += len(bounds) - 1

    def arrays(self) -> "dict[str, pa.Array]":
        """Return what was gathered, by label, and begin anew; without columns that are all null."""
        held = {label: column for label, column in self._gathered.items() if column.count}
        for column in held.values():
            column.fill(self.count)
        self.count = self.size = 0
        return {label: column.array() for label, column in held.items()}

    def _by_shape(self, data: bytes, bounds: Sequence[int], shape: ShapeColumns) -> _Rows | None:
        """Return the columns, or None where none of the documents is like the shape, or some only seemed to be."""
        fitting: list[tuple[bytes, ...]] = []
        misfits: list[int] = []
        count = len(bounds) - 1
        while (place := len(fitting) + len(misfits)) < count:
            found = shape.fitting(data, bounds[place], bounds[-1])
            fitting += found
            if place + len(found) < count:
                misfits.append(place + len(found))
        self._consider(in_vain=len(misfits) * 2 > count)
        if not fitting or place > count:
            return None
        try:
            rows = shape.columns(fitting)
        except DiffersError:
            return None
        if not misfits:
            return rows
        walked = self._walked(data, [(bounds[place], bounds[place + 1]) for place in misfits])
        return {
            label: _woven(rows.get(label, [None] * len(fitting)), walked.get(label, [None] * len(misfits)), misfits)
            for label in rows | walked
        }

    def _consider(self, *, in_vain: bool) -> None:
        if in_vain:
            self._pause, self._next_pause = self._next_pause, min(self._next_pause * 2, _LONGEST_PAUSE)
        else:
            self._next_pause = 1

    def _walked(self, data: bytes, spans: Sequence[tuple[int, int]]) -> _Rows:
        """Return the columns of documents, each given by where it begins and ends."""
        rows: dict[str, list[Any]] = {}
        rest: list[bytes | None] = []
        for number, (start, stop) in enumerate(spans):
            held: dict[bytes, Field] = {}
            left: list[Field] = []
            for found in fields(data, start, stop):
                if found.name in held:
                    left.append(held[found.name])  # of fields of one name the last has the column
                held[found.name] = found
            for found in held.values():
                column = self._columns.get(found.name)
                value = _value(column, data, found) if column else _NO_PLACE
                if value is _NO_PLACE:
                    left.append(found)
                elif column and value is not None:
                    rows.setdefault(column.label, [None] * len(spans))[number] = value
            rest.append(b"".join(data[found.begin : found.end] for found in left) or None)
        for column in self._columns.values():
            if column.type_ not in _READ and column.label in rows:
                key = f"{self._collection}\0{column.label}"
                rows[column.label] = (_typed if column.type_ == "text" else _json)(column.name, rows[column.label], key)
        if self._lossless:
            documents = b"".join(data[start:stop] for start, stop in spans)
            rows["_doc"] = [*encode_documents(documents, "canonical", self._collection)]
        elif any(rest):
            rows["_rest"] = _encoded(rest, None)
        return dict(rows)


def _shape_columns(surveyed: Surveyed | None, columns: Sequence[Column], *, lossless: bool) -> ShapeColumns | None:
    if surveyed is None or surveyed.documents < schema.WORTH_A_PATTERN:
        return None
    shape = surveyed.form.shape()
    if not lossless and any(member.name not in surveyed.kinds for member in shape.document.inner):
        return None  # fields that go to the rest are seen by walking
    return ShapeColumns(shape, columns, lossless=lossless)


def _value(column: Column, data: bytes, found: Field) -> Any:
    """Return what a column holds for a field: None for null, _NO_PLACE if it cannot hold it."""
    if found.kind == "null":
        return None
    read = _READ[column.type_].get(found.kind) if column.type_ in _READ else _whole
    try:
        return read(data, found) if read else _NO_PLACE
    except UnicodeDecodeError:  # a lone surrogate, or not text at all
        return _NO_PLACE


def _woven(values: Values, others: Values, places: Sequence[int]) -> list[Any]:
    """Return values with others put in at their places."""
    woven = list(values)
    for place, value in zip(places, others, strict=True):
        woven.insert(place, value)
    return woven


def _encoded(documents: Sequence[bytes | None], key: str | None) -> list[bytes | None]:
    """Return documents, each given by its fields, as relaxed Extended JSON."""
    framed = (b"%b%b\0" % (_int32.pack(len(inner) + 5), inner) for inner in documents if inner)
    lines = iter(encode_documents(b"".join(framed), "relaxed", key))
    return [inner and next(lines) for inner in documents]


def _json(name: bytes, values: Sequence[bytes | None], key: str) -> list[bytes | None]:
    """Return the values of whole fields as relaxed Extended JSON."""
    before = len(f"{{{quote(name)}:".encode())
    return [line and line[before:-1] for line in _encoded(values, key)]


def _typed(name: bytes, values: Sequence[bytes | None], key: str) -> list[bytes | None]:
    """Return ids as an analyst would type them; their exact types are in ``_doc``."""
    begin = len(name) + len(b"\7\0")
    typed: list[bytes | None] = []
    for value, text in zip(values, _json(name, values, key), strict=True):
        if value and value[0] == 0x07:
            typed.append(value[begin:].hex().encode())
        elif value and value[0] == 0x02 and _is_text(value[begin + 4 : -1]):
            typed.append(value[begin + 4 : -1])
        else:
            typed.append(text)
    return typed


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:  # a lone surrogate, or not text at all
        return False
    return True
