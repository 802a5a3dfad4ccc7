"""Documents as rows of a table, for formats that people open as one: the tag, ``_id``, and a column for each field.

A survey of all documents finds the columns. No value is left out: what has no column of its own, because there are too
many names or one comes twice, stands in the last column ``_rest``, as one JSON object.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says
from typing import NamedTuple, TypeVar

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.bson_fields import ENDS, fields
from export_pipeline.formats.bson_walk import DOCUMENT, is_like_tag, quote, tables
from export_pipeline.formats.extended_json import EncodingError, encode_document, encode_documents, encode_value
from export_pipeline.mongo.bson_stream import Piece

TAG, ID, REST = "_col", "_id", "_rest"

MOST_COLUMNS = 2_000
"""Where names are data (a map by date, by user) there may be millions."""

LONGEST_NAME = 200
"""In bytes. Longer names are data too."""

_CACHED = 10_000

_WINDOW = 256
"""Documents that are made rows together, so that embedded ones of the same field can be written together."""

_WORTH_LEARNING = 32
"""Embedded documents; fewer are written faster without learning what they have in common."""

T = TypeVar("T")
Cell = Callable[[bytes, int, int], T]
"""Makes a cell of the value ``data[begin:end]``."""

_SIZES = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
_DAMAGE = (EncodingError, LookupError, ValueError, StructError)
_Nested = dict[bytes, list[tuple[list[T | None], int, bytes]]]
"""Embedded documents by the name of their field: the row and the column where their text goes, and their bytes."""

_EMPTY_DOCUMENT = 5
_double = Struct("<d").unpack_from
_int32 = Struct("<i").unpack_from
_int64 = Struct("<q").unpack_from
_DOUBLE_TEXT = tables("canonical").items[b"\x01"][5]
_DECIMAL_TEXT = tables("canonical").items[b"\x13"][5]
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all dates of BSON are UTC, and naive ones are written faster


# Values, each read from ``data[begin:end]``.


def read_text(data: bytes, begin: int, end: int) -> str:
    """Return a string; the lone surrogates that old drivers stored become escapes, as no text file can hold them."""
    if end < begin + 5 or data[end - 1]:
        raise ValueError
    raw = data[begin + 4 : end - 1]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogatepass").encode("utf-8", "backslashreplace").decode()


def read_double(data: bytes, begin: int, _end: int) -> float:
    """Return a double."""
    value: float = _double(data, begin)[0]
    return value


def read_int(data: bytes, begin: int, end: int) -> int:
    """Return an integer of 32 or 64 bits. A date is one too: milliseconds since 1970."""
    value: int = (_int32 if end - begin == 4 else _int64)(data, begin)[0]
    return value


def read_bool(data: bytes, begin: int, _end: int) -> bool:
    """Return a boolean."""
    if data[begin] > 1:
        raise ValueError
    return data[begin] == 1


def double_text(data: bytes, begin: int, _end: int) -> str:
    """Return a double as the shortest decimal that reads back as the same."""
    return _DOUBLE_TEXT(_double(data, begin)[0])


def decimal_text(data: bytes, begin: int, end: int) -> str:
    """Return a decimal128 with all its digits."""
    return _DECIMAL_TEXT(data[begin:end])


def id_text(data: bytes, begin: int, end: int) -> str:
    """Return an ObjectId as hexadecimal digits."""
    return data[begin:end].hex()


def date_text(data: bytes, begin: int, end: int) -> str:
    """Return a date as ISO 8601 has it; in Extended JSON where its year has not four digits."""
    try:
        moment = _EPOCH + timedelta(milliseconds=_int64(data, begin)[0])
    except OverflowError:
        return json_text(0x09, data, begin, end)
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def json_text(kind: int, data: bytes, begin: int, end: int) -> str:
    """Return a value of any type as relaxed Extended JSON."""
    return encode_value(kind, data[begin:end], "relaxed").decode()


class Slot(NamedTuple):
    """What the head of an element (its type and name) says: where its value ends, and where it goes."""

    column: int | None
    """None is for the rest."""
    size: int
    """Of the value, in bytes; -1 where only ``end_of`` tells."""
    end_of: Callable[[bytes, int], int]
    kind: int
    name: bytes
    """As it stands in the rest."""
    inner: "_Slots | None"
    """For an embedded document whose fields have columns of their own."""


class _Slots(dict[bytes, Slot]):
    """Slots by head, of the document's own fields or of those of an embedded one."""

    def __init__(self, table: "Table", prefix: bytes) -> None:
        super().__init__()
        self._table = table
        self._prefix = prefix

    def __missing__(self, head: bytes) -> Slot:
        slot = self._table.slot(self._prefix, head)
        if len(head) <= LONGEST_NAME:
            self._table.make_place()
            self[head] = slot
        return slot


class Table:
    """The columns of one collection. While surveying, each new name makes one."""

    def __init__(self, collection: str, *, dotted: bool) -> None:
        self.collection = collection
        self.documents = 0
        self._dotted = dotted
        self._surveying = True
        self._columns = {ID.encode(): 1}
        self._has_rest = False
        self._cached = 0
        self._slots = _Slots(self, b"")

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        names = [name.decode("utf-8", "surrogatepass") for name in self._columns]
        readable = [name.encode("utf-8", "backslashreplace").decode() for name in names]
        return [TAG, *readable, *([REST] if self._has_rest else [])]

    def see(self, piece: Piece) -> None:
        """Make columns for the fields of some documents."""
        self.documents += len(piece)
        for start, stop in pairwise([*piece.offsets, len(piece.data)]):
            filled: list[int | None] | None = None
            with suppress(*_DAMAGE):
                filled = [slot.column for slot, _, _ in self._fields(piece.data, start, stop, self._slots)]
            if filled is None:
                raise self._explained([piece.data[start:stop]])
            if None in filled or len(set(filled)) != len(filled):
                self._has_rest = True

    def finish(self) -> None:
        """End the survey: from here on, names without a column are for the rest."""
        self._surveying = False

    def rows(self, piece: Piece, cells: Mapping[int, Cell[T]], text: Callable[[str], T]) -> Iterator[list[T | None]]:
        """Yield documents as rows; None is a field that is missing.

        ``cells`` says for each BSON type how to make a cell; ``text`` does of the tag, and of Extended JSON.
        """
        data = piece.data
        bounds = list(pairwise([*piece.offsets, len(data)]))
        for first in range(0, len(bounds), _WINDOW):
            window = bounds[first : first + _WINDOW]
            rows: list[list[T | None]] | None = None
            with suppress(*_DAMAGE):
                nested: _Nested[T] = {}
                rows = [self._row(data, start, stop, nested, cells, text) for start, stop in window]
                for name, values in nested.items():
                    for (row, column, _), json in zip(values, self._nested_json(name, values), strict=True):
                        row[column] = text(json)
            if rows is None:  # said out here, so that no exception that carries stored values hangs on it
                raise self._explained(data[start:stop] for start, stop in window)
            yield from rows

    def _row(
        self,
        data: bytes,
        start: int,
        stop: int,
        nested: _Nested[T],
        cells: Mapping[int, Cell[T]],
        text: Callable[[str], T],
    ) -> list[T | None]:
        """Return a document's row; its cells with embedded documents are left to be written with those of others."""
        row: list[T | None] = [None] * (len(self._columns) + 1)
        row[0] = text(self.collection)
        rest: list[str] = []
        for slot, begin, end in self._fields(data, start, stop, self._slots):
            column, kind = slot.column, slot.kind
            if column is None or row[column] is not None:
                rest.append(f"{quote(slot.name)}:{json_text(kind, data, begin, end)}")
            elif kind in cells:
                row[column] = cells[kind](data, begin, end)
            elif kind == DOCUMENT and end - begin >= _EMPTY_DOCUMENT:
                row[column] = text("")
                nested.setdefault(slot.name, []).append((row, column, data[begin:end]))
            else:
                row[column] = text(json_text(kind, data, begin, end))
        if self._has_rest:
            row.append(text(f"{{{','.join(rest)}}}") if rest else None)
        elif rest:
            raise IncompleteError(f"{self.collection}: a document has fields that it had not when it was surveyed")
        return row

    def _nested_json(self, name: bytes, values: list[tuple[list[T | None], int, bytes]]) -> list[str]:
        """Return embedded documents of one column as relaxed Extended JSON."""
        documents = [document for _, _, document in values]
        if len(documents) < _WORTH_LEARNING:
            return [json_text(DOCUMENT, document, 0, len(document)) for document in documents]
        field = f"{self.collection}.{name.decode(errors='replace')}"
        return [line.decode() for line in encode_documents(b"".join(documents), "relaxed", field)]

    def renamed(self, piece: Piece) -> int:
        """Return how many documents have a field that made place for the tag."""
        if b"_col\0" not in piece.data:
            return 0
        return sum(
            any(is_like_tag(field.name) for field in fields(piece.data, start, stop))
            for start, stop in pairwise([*piece.offsets, len(piece.data)])
        )

    def _fields(self, data: bytes, start: int, stop: int, slots: _Slots) -> Iterator[tuple[Slot, int, int]]:
        """Yield the fields of the document ``data[start:stop]``: their slots, and where their values begin and end."""
        position, last = start + 4, stop - 1
        while position < last:
            begin = data.index(0, position, last) + 1
            slot = slots[data[position : begin - 1]]
            size = slot.size
            position = begin + size if size >= 0 else slot.end_of(data, begin)
            if position > last:
                raise ValueError
            if slot.inner is None:
                yield slot, begin, position
            elif position - begin > _EMPTY_DOCUMENT:
                yield from self._fields(data, begin, position, slot.inner)
            else:
                yield slot._replace(column=self._column(slot.name)), begin, position
        if position != last or data[last]:
            raise ValueError

    def slot(self, prefix: bytes, head: bytes) -> Slot:
        """Return the slot for a head, not looking at those that are known."""
        kind, name = head[0], head[1:]
        if not prefix and is_like_tag(name):
            name = b"_" + name  # as in JSON, so that the tag is the only one
        path = prefix + name
        inner = None
        if kind == DOCUMENT and self._dotted and not prefix and name != ID.encode():
            inner = _Slots(self, path + b".")
        return Slot(self._column(path) if inner is None else None, _SIZES.get(kind, -1), ENDS[kind], kind, path, inner)

    def _column(self, path: bytes) -> int | None:
        """Return the column of a field; while surveying, give it one unless there are too many."""
        column = self._columns.get(path)
        if column is None and self._surveying and len(self._columns) < MOST_COLUMNS:
            path.decode("utf-8", "surrogatepass")  # raises ValueError for what cannot stand in a header
            if len(path) <= LONGEST_NAME and path != REST.encode():
                column = self._columns[path] = len(self._columns) + 1
        return column

    def make_place(self) -> None:
        """Keep the slots that are remembered from filling the memory."""
        self._cached += 1
        if self._cached > _CACHED:
            self._slots.clear()
            self._cached = 0

    def _explained(self, documents: Iterable[bytes]) -> EncodingError:
        problem = "a document is not valid BSON"
        try:
            for document in documents:
                encode_document(document, "relaxed")
        except EncodingError as error:
            problem = str(error)  # it names the field
        return EncodingError(f"collection {self.collection!r}: {problem}")


class ColumnSurvey:
    """The tables of all collections."""

    def __init__(self, *, dotted: bool) -> None:
        self._dotted = dotted
        self._tables: dict[str, Table] = {}

    def see(self, collection: str, piece: Piece) -> None:
        """See ``Survey.see``."""
        table = self._tables.get(collection)
        if table is None:
            table = self._tables[collection] = Table(collection, dotted=self._dotted)
        table.see(piece)

    def documents(self, collection: str) -> int:
        """Return how many documents of a collection were seen."""
        return self._tables[collection].documents

    def table(self, collection: str) -> Table:
        """Return the table of a collection, of which all documents were seen."""
        table = self._tables[collection]
        table.finish()
        return table
