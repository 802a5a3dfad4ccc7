"""Raw BSON documents to Arrow columns: taken apart by one pattern for a collection, then built column by column.

What the pattern does not take, and all documents of a collection with few of them, are walked field by field. Either
way no value is decoded in Python but text that is turned into JSON: Arrow reads numbers and dates as they are stored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says
from typing import TYPE_CHECKING, Any

from export_pipeline.formats import parquet_schema as schema
from export_pipeline.formats.bson_fields import ENDS, LARGE_LONG, SIZES, Field, compiled, fields, groups, pattern
from export_pipeline.formats.bson_walk import quote
from export_pipeline.formats.extended_json import EncodingError, encode_documents
from export_pipeline.formats.parquet_schema import Column, Match, ParquetSurvey, arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

_int32 = Struct("<i").pack
_uint32 = Struct("<I").unpack_from

_WINDOW_VALUES = 1 << 16
"""Values that are taken apart before columns are made of them."""

Slot = Sequence[bytes | None]
"""What was found for one group of a column's pattern in each of many documents; None where it is missing.

For a string these are two slots, its length and its text; for a value whose length must be read, the whole field.
"""

_OPEN = ("binary", "json", "text")
"""Types of columns whose values are not in the pattern."""

Row = tuple[bytes | None, ...]
"""What was found in one document, or in a part of it: a value for each slot."""

Rest = dict[int, bytes]
"""By a document's place: its fields, end to end, that no column holds."""


class _DiffersError(Exception):
    """Documents that look like the pattern are not of it."""


Segment = tuple[Match, bytes | None, bool]
"""A pattern; the name, with its zero byte, of the field after it whose length must be read; whether that is binary."""


@dataclass(frozen=True, slots=True)
class Window:
    """Some documents as columns."""

    count: int
    arrays: "dict[str, pa.Array]"
    """By label; columns without a value are left out."""
    rest: Rest
    begin: int
    """Where the first document begins in the data, and where the last one ends."""
    end: int


class CollectionColumns:
    """Makes the columns of one collection's documents."""

    def __init__(self, survey: ParquetSurvey, columns: Sequence[Column], collection: str) -> None:
        surveyed = survey.collections.get(collection)
        by_name = {column.name: column for column in columns}
        self._columns = list(columns) if surveyed is None else [by_name[name] for name in surveyed.order]
        self._collection = collection
        self._types = {column.name: column.type_ for column in self._columns}
        self._first_slots: list[int] = []
        self._places: dict[tuple[bytes, str], int] = {}
        """The slot for values of a name and kind; ``""`` stands for any kind."""
        width = 0
        for column in self._columns:
            self._first_slots.append(width)
            for kind in _slots(column):
                self._places.setdefault((column.name, "" if column.type_ in _OPEN else kind), width)
                if kind == "long" and column.type_ == "int64":
                    self._places[column.name, LARGE_LONG] = width
                width += 1
        self._width = width
        self._window = max(16, min(1024, _WINDOW_VALUES // max(1, width)))
        self._segments: list[Segment] = []
        if surveyed is not None and surveyed.documents >= schema.WORTH_A_PATTERN:
            self._segments = _segments(self._columns[: schema.MOST_PATTERNED])

    def windows(self, data: bytes, offsets: Sequence[int]) -> Iterator[Window]:
        """Yield the columns of documents, of some at a time. Raises EncodingError."""
        bounds = [*offsets, len(data)]
        for begin in range(0, len(offsets), self._window):
            window = bounds[begin : begin + self._window + 1]
            made = self._made_of(data, window, self._segments) if self._segments else None
            made = made or self._made_of(data, window, [])
            if made is None:
                raise EncodingError("text that was valid is not")  # never: walking looks at each
            yield made

    def _made_of(self, data: bytes, bounds: Sequence[int], segments: Sequence[Segment]) -> Window | None:
        """Return the columns, or None where documents that seemed to fit the patterns do not."""
        import pyarrow as pa

        rest: Rest = {}
        taken = _Taken(segments, self._width)
        for number, (start, stop) in enumerate(pairwise(bounds)):
            if not taken.match(data, start, stop):
                row, left = self._walked(data, start, stop)
                taken.append(row)
                if left:
                    rest[number] = left
        count = len(bounds) - 1
        slots = taken.slots()
        arrays: dict[str, pa.Array] = {}
        try:
            for column, first in zip(self._columns, self._first_slots, strict=True):
                own = slots[first : first + len(_slots(column))]
                if any(map(any, own)):
                    arrays[column.label] = _array(column, own, f"{self._collection}\0{column.label}")
        except (_DiffersError, pa.ArrowInvalid):
            return None
        return Window(count, arrays, rest, bounds[0], bounds[-1])

    def _walked(self, data: bytes, start: int, stop: int) -> tuple[Row, bytes]:
        """Return a document's row, and the fields that no column holds."""
        row: list[bytes | None] = [None] * self._width
        left: list[Field] = []
        held: dict[bytes, Field] = {}
        for found in fields(data, start, stop):
            if found.name in held:
                left.append(held[found.name])  # of fields of one name the last has the column
            held[found.name] = found
        left += [found for found in held.values() if not self._take(data, found, row)]
        return tuple(row), b"".join(data[found.begin : found.end] for found in left)

    def _take(self, data: bytes, found: Field, row: list[bytes | None]) -> bool:
        """Put a field in its column; tell whether there is one that holds it."""
        kind, name, begin, value, end = found
        type_ = self._types.get(name)
        if type_ is None or kind == "null":
            return type_ is not None
        if type_ in _OPEN:
            if type_ == "binary" and kind != "binData":
                return False
            row[self._places[name, ""]] = data[begin:end]
            return True
        slot = self._places.get((name, kind))
        if slot is None:
            return False
        if kind == "string":
            row[slot : slot + 2] = data[value : value + 4], data[value + 4 : end - 1]
            return _is_text(data[value + 4 : end - 1]) or _clear(row, slot)
        row[slot] = data[value:end]
        return True


def _clear(row: list[bytes | None], slot: int) -> bool:
    row[slot : slot + 2] = None, None
    return False


def _segments(columns: Sequence[Column]) -> list[Segment]:
    segments: list[Segment] = []
    waiting: list[bytes] = []
    for column in columns:
        if column.type_ in _OPEN:
            segments.append((compiled(waiting), column.name + b"\0", column.type_ == "binary"))
            waiting = []
        else:
            waiting.append(pattern(column.name, column.kinds, capturing=True))
    return [*segments, (compiled(waiting), None, False)]


class _Taken:
    """What documents were taken apart into: tuples for each segment, and the fields whose length was read."""

    def __init__(self, segments: Sequence[Segment], width: int) -> None:
        self._segments = [(match, name, binary, list[Row](), list[bytes | None]()) for match, name, binary in segments]
        # How many slots a segment has, and those that are in none; in tuples, as the collector soon forgets those.
        self._widths = [match.__self__.groups for match, _, _ in segments]  # type: ignore[attr-defined]
        patterned = sum(self._widths) + sum(name is not None for _, name, _ in segments)
        self._beyond: list[Row] = []
        self._none_beyond: Row = (None,) * (width - patterned)
        self._count = 0

    def match(self, data: bytes, start: int, stop: int) -> bool:
        """Take a document apart; tell whether it fits. That strings have their lengths is still to be checked."""
        position, last = start + 4, stop - 1
        try:
            for match, name, binary, groups_of, opened in self._segments:
                found = match(data, position, last)
                if found is None:
                    break
                groups_of.append(found.groups())
                position = found.end()
                if name is None:
                    if position != last or data[last]:
                        break
                    self._beyond.append(self._none_beyond)
                    self._count += 1
                    return True
                if data.startswith(name, position + 1):
                    type_, value = data[position], position + 1 + len(name)
                    if binary and type_ != 0x0A and (type_ != 0x05 or data[value + 4]):
                        break
                    # As ENDS says; these are the most frequent.
                    end = value + _uint32(data, value)[0] if type_ in (0x03, 0x04) else ENDS[type_](data, value)
                    opened.append(data[position:end])
                    position = end
                else:
                    opened.append(None)
        except (IndexError, KeyError, ValueError, StructError):
            pass
        for _, _, _, groups_of, opened in self._segments:
            del groups_of[self._count :], opened[self._count :]
        return False

    def append(self, row: Row) -> None:
        """Add a document that was taken apart otherwise."""
        position = 0
        for (_, name, _, groups_of, opened), width in zip(self._segments, self._widths, strict=True):
            groups_of.append(row[position : position + width])
            position += width
            if name is not None:
                opened.append(row[position])
                position += 1
        self._beyond.append(row[position:])
        self._count += 1

    def slots(self) -> list[Slot]:
        """Return what was found, slot by slot."""
        slots: list[Slot] = []
        for _, name, _, groups_of, opened in self._segments:
            slots += zip(*groups_of, strict=True)
            groups_of.clear()
            if name is not None:
                slots.append(opened)
        return slots + list(zip(*self._beyond, strict=True))


def _slots(column: Column) -> list[str]:
    """Return the kind of value in each of a column's slots."""
    if column.type_ in _OPEN:
        return [column.type_]
    kinds = [kind for kind in groups(column.kinds) if kind != "null"]
    return kinds * 2 if kinds == ["string"] else kinds


def _array(column: Column, slots: list[Slot], key: str) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    type_ = arrow_type(column.type_)
    match column.type_:
        case "json":
            return pa.ExtensionArray.from_storage(type_, pa.array(_json(column.name, slots[0], key), pa.string()))
        case "text":
            return pa.array(_as_typed(column.name, slots[0], key), type_)
        case "binary":
            skipped = len(column.name) + len(b"\5\0....\0")
            return pa.array([found[skipped:] if found and found[0] == 0x05 else None for found in slots[0]], type_)
        case "objectid":
            return pa.array([found and found.hex() for found in slots[0]], type_)
        case "string":
            lengths, texts = slots
            strings = pa.array(texts, type_)
            agree = pc.equal(pc.add(pc.binary_length(strings), 1), _numbers(lengths, "int"))
            if not pc.all(agree, min_count=0).as_py():
                raise _DiffersError
            return strings
        case "timestamp":
            return _numbers(slots[0], "date").view(type_)
    parts = [_numbers(slot, kind).cast(type_) for kind, slot in zip(_slots(column), slots, strict=True)]
    return parts[0] if len(parts) == 1 else pc.coalesce(*parts)


def _numbers(values: Slot, kind: str) -> "pa.Array":
    """Return values of fixed size as they lie in BSON; it and Arrow are little-endian both."""
    import pyarrow as pa

    type_ = {"int": pa.int32(), "double": pa.float64(), "bool": pa.uint8()}.get(kind, pa.int64())
    try:
        joined = b"".join(values)  # type: ignore[arg-type]
    except TypeError:  # some are missing
        return pa.array(values, pa.binary(SIZES[kind])).view(type_)
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(joined)])


def _json(name: bytes, values: Slot, key: str) -> list[bytes | None]:
    """Return the values of whole fields as relaxed Extended JSON, nulls as None."""
    held = [value is not None and value[0] != 0x0A for value in values]
    documents = [b"%b%b\0" % (_int32(len(value) + 5), value) for value in compress(values, held) if value]
    before = len(f"{{{quote(name)}:".encode())
    texts = (line[before:-1] for line in encode_documents(b"".join(documents), "relaxed", key))
    return [next(texts) if there else None for there in held]


def _as_typed(name: bytes, values: Slot, key: str) -> list[Any]:
    """Return ids as an analyst would type them; their exact types are in ``_doc``."""
    begin = len(name) + len(b"\7\0")
    typed: list[Any] = []
    for value, text in zip(values, _json(name, values, key), strict=True):
        if value and value[0] == 0x07:
            typed.append(value[begin:].hex())
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
