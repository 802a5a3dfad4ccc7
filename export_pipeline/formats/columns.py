"""Documents as rows of a table, for formats that people open as one: the tag, ``_id``, and a column for each field.

A survey of all documents finds the columns. No value is left out: what has no column of its own, because there are too
many names or one comes twice, stands in the last column ``_rest``, as one JSON object.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says
from typing import NamedTuple

from export_pipeline.errors import IncompleteError
from export_pipeline.formats.bson_fields import ENDS, SIZES, TYPES, fields
from export_pipeline.formats.bson_walk import DOCUMENT, is_like_tag
from export_pipeline.formats.column_parts import EMPTY_DOCUMENT, LONGEST_NAME, KnownFields, Layout, Part, value_of
from export_pipeline.formats.extended_json import EncodingError, encode_document
from export_pipeline.mongo.bson_stream import Piece

TAG, ID, REST = "_col", "_id", "_rest"

MOST_COLUMNS = 2_000
"""Where names are data (a map by date, by user) there may be millions."""

WORTH_A_LAYOUT = 500
"""Documents. To compile a pattern takes as long as to walk so many."""

_LEARNED_SHARE = 8
"""Of so many documents that had to be walked, a layout learns from one."""

_CACHED = 10_000

_WINDOW, _WINDOW_CELLS = 512, 1 << 16
"""Documents that are made rows together, so that a column is written at once; and cells, as rows may be wide."""

_DATE = 0x09
_int32 = Struct("<i").pack
_DAMAGE = (EncodingError, LookupError, ValueError, StructError)
_SIZES = {TYPES[kind][0]: size for kind, size in SIZES.items()}

Render = Callable[[int, Iterable[Part]], list[bytes]]
"""Makes rows of so many documents, given by the parts of their columns. It raises what ``cell_text`` does."""


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
        self.date_columns: set[int] = set()
        """Those of which some values are dates."""
        self._dotted = dotted
        self._surveying = True
        self._columns = {ID.encode(): 1}
        self._has_rest = False
        self._cached = 0
        self._slots = _Slots(self, b"")
        self._known = KnownFields(dotted=dotted)
        self._layout: Layout | None = None
        # Documents that were walked since a layout was made, and at how many it is made anew.
        self._walked, self._patience = 0, WORTH_A_LAYOUT

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        names = [name.decode("utf-8", "surrogatepass") for name in self._columns]
        readable = [name.encode("utf-8", "backslashreplace").decode() for name in names]
        return [TAG, *readable, *([REST] if self._has_rest else [])]

    def see(self, piece: Piece) -> None:
        """Make columns for the fields of some documents."""
        self.documents += len(piece)
        for bounds in self._windows(piece):
            missed: Sequence[int] = range(len(bounds) - 1)
            if self._layout is not None:
                missed = self._layout.take(piece.data, bounds).missed
            for number in missed:
                self._look(piece.data, bounds[number], bounds[number + 1])

    def finish(self) -> None:
        """End the survey: from here on, names without a column are for the rest."""
        if self._surveying and self._layout is not None:
            self._lay_out()
        self._surveying = False

    def lines(self, piece: Piece, render: Render) -> Iterator[list[bytes]]:
        """Yield documents as rows, some hundred at a time. Raises EncodingError."""
        for bounds in self._windows(piece):
            lines: list[bytes] | None = None
            with suppress(*_DAMAGE):
                lines = self._lines(piece.data, bounds, render)
            if lines is None:  # said out here, so that no exception that carries stored values hangs on it
                raise self._explained(piece.data[start:stop] for start, stop in pairwise(bounds))
            yield lines

    def renamed(self, piece: Piece) -> int:
        """Return how many documents have a field that made place for the tag."""
        if b"_col\0" not in piece.data:
            return 0
        return sum(
            any(is_like_tag(field.name) for field in fields(piece.data, start, stop))
            for start, stop in pairwise([*piece.offsets, len(piece.data)])
        )

    def _windows(self, piece: Piece) -> Iterator[list[int]]:
        """Yield where documents begin, and where the last one of a window ends."""
        bounds = [*piece.offsets, len(piece.data)]
        size = min(_WINDOW, _WINDOW_CELLS // len(self._columns) + 1)
        for first in range(0, len(piece), size):
            yield bounds[first : first + size + 1]

    def _look(self, data: bytes, start: int, stop: int) -> None:
        """Make columns for the fields of one document."""
        filled: list[int | None] | None = None
        with suppress(*_DAMAGE):
            filled = [slot.column for slot, _, _ in self._fields(data, start, stop, self._slots)]
            if self._walked % _LEARNED_SHARE == 0:
                self._known.learn(data, start, stop)
        if filled is None:
            raise self._explained([data[start:stop]])
        if None in filled or len(set(filled)) != len(filled):
            self._has_rest = True
        self._walked += 1
        if self._walked == self._patience:
            # Where every document brings something new, layouts never pay.
            self._walked, self._patience = 0, self._patience * 2
            self._lay_out()

    def _lay_out(self) -> None:
        self._layout = Layout(self._known.laid_out(self._column_at))

    def _lines(self, data: bytes, bounds: Sequence[int], render: Render) -> list[bytes]:
        count = len(bounds) - 1
        if self._layout is None:
            return render(count, self._walk(data, bounds, range(count)))
        taken = self._layout.take(data, bounds)
        if not taken.missed:
            return render(count, taken.parts())
        lines = [b""] * count
        for numbers, parts in (
            (taken.numbers, taken.parts()),
            (taken.missed, self._walk(data, bounds, taken.missed)),
        ):
            rows = render(len(numbers), parts) if numbers else []
            for number, row in zip(numbers, rows, strict=True):
                lines[number] = row
        return lines

    def _walk(self, data: bytes, bounds: Sequence[int], numbers: Sequence[int]) -> list[Part]:
        """Return the parts of some documents, field by field."""
        found: dict[tuple[int, int], tuple[list[bytes], list[int]]] = defaultdict(lambda: ([], []))
        for place, number in enumerate(numbers):
            filled: set[int] = set()
            rest: list[bytes] = []
            for slot, begin, end in self._fields(data, bounds[number], bounds[number + 1], self._slots):
                column, kind = slot.column, slot.kind
                if column is None or column in filled:
                    rest.append(b"%c%b\0%b" % (kind, slot.name, data[begin:end]))
                    continue
                filled.add(column)
                values, places = found[column, kind]
                values.append(value_of(kind, data, begin, end))
                places.append(place)
            if rest and not self._has_rest:
                raise IncompleteError(f"{self.collection}: a document has fields that it had not when it was surveyed")
            if rest:
                values, places = found[len(self._columns) + 1, DOCUMENT]
                values.append(_document(b"".join(rest)))
                places.append(place)
        return [
            Part(column, kind, values, places if len(places) < len(numbers) else None)
            for (column, kind), (values, places) in found.items()
        ]

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
            elif position - begin > EMPTY_DOCUMENT:
                yield from self._fields(data, begin, position, slot.inner)
            else:
                yield slot._replace(column=self._column(slot.name)), begin, position
        if position != last or data[last]:
            raise ValueError

    def slot(self, prefix: bytes, head: bytes) -> Slot:
        """Return the slot for a head, not looking at those that are known."""
        kind, name = head[0], head[1:]
        path = prefix + name if prefix else _beside_tag(name)
        inner = None
        if kind == _DATE and (column := self._column(path)) is not None:
            self.date_columns.add(column)
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

    def _column_at(self, path: tuple[bytes, ...]) -> int | None:
        first, *inner = path
        return self._columns.get(b".".join((_beside_tag(first), *inner)))

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


def _beside_tag(name: bytes) -> bytes:
    """Return a field's name as in JSON, so that the tag is the only one."""
    return b"_" + name if name.endswith(b"_col") and is_like_tag(name) else name


def _document(elements: bytes) -> bytes:
    return b"%b%b\0" % (_int32(len(elements) + EMPTY_DOCUMENT), elements)


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
