"""What a Parquet file's columns are: a survey of the documents' top-level fields, and the type that holds all of each.

The survey sees all documents and keeps only names and kinds of values, at most ``MOST_COLUMNS`` of them.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from export_pipeline.formats.bson_fields import (
    ENDS,
    LARGE_LONG,
    SIZES,
    TYPES,
    compiled,
    fields,
    is_patterned,
    kind_at,
    pattern,
    type_kind,
    value_pattern,
)
from export_pipeline.formats.bson_form import Form, NotWorthItError
from export_pipeline.formats.extended_json import EncodingError, encode_document
from export_pipeline.mongo.bson_stream import Piece

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COLUMNS = 1000
"""Where names are data (a map by date, by user) there may be millions; each column costs memory in each row group."""

LONGEST_NAME = 200
"""In bytes. Longer names are data."""

MOST_PATTERNED = 200
"""Fields of a collection that the pattern has; beyond, trying them all takes longer than reading the document."""

WORTH_A_PATTERN = 500
"""Documents. To compile a pattern takes as long as to walk so many."""

_LESSONS = 32
"""Documents that are learned from between one pattern and the next."""

ColumnType = Literal["int32", "int64", "double", "bool", "timestamp", "string", "objectid", "binary", "json", "text"]
"""``objectid`` is a string of hexadecimal digits, ``text`` the mixed ids as an analyst would type them."""

# The first that holds all kinds of a field is its type. A field that is always null may as well be a string.
_TYPES: list[tuple[frozenset[str], ColumnType]] = [
    (frozenset({"string"}), "string"),
    (frozenset({"int"}), "int32"),
    (frozenset({"int", "long", LARGE_LONG}), "int64"),
    (frozenset({"int", "long", "double"}), "double"),
    (frozenset({"bool"}), "bool"),
    (frozenset({"date"}), "timestamp"),
    (frozenset({"objectId"}), "objectid"),
    (frozenset({"binData"}), "binary"),
]


def column_type(kinds: Iterable[str]) -> ColumnType:
    """Return the type that holds values of all ``kinds`` and loses nothing.

    >>> column_type({"int", "double", "null"}), column_type({"int", "string"})
    ('double', 'json')
    """
    values = set(kinds) - {"null"}
    return next((type_ for fitting, type_ in _TYPES if values <= fitting), "json")


@dataclass(frozen=True, slots=True)
class Column:
    """A column for a top-level field."""

    name: bytes
    """The field's."""
    label: str
    """The column's."""
    type_: ColumnType
    kinds: frozenset[str]
    """What the field was seen to hold; its origin types."""


def column_label(name: bytes) -> str:
    """Return a field's column: the file's own columns keep their names, so fields called like them give way.

    >>> column_label(b"_col"), column_label(b"__doc"), column_label(b"_id")
    ('__col', '___doc', '_id')
    """
    return ("_" if is_reserved(name) else "") + name.decode()


def is_reserved(name: bytes) -> bool:
    """Tell whether a field is called like one of the file's own columns, or would be called like one that gave way.

    In any case of letters: to some readers, DuckDB for one, ``_Doc`` and ``_doc`` are the same.
    """
    return re.fullmatch(b"_+(col|doc|rest)", name, re.IGNORECASE) is not None


Match = Callable[[bytes, int, int], re.Match[bytes] | None]


class _Patience:
    """Counts documents that a pattern did not fit; says when to make it anew, each time after twice as many.

    Where every document brings something new, patterns never pay.
    """

    def __init__(self) -> None:
        self._missed, self._limit = 0, WORTH_A_PATTERN

    def count(self) -> bool:
        """Count one; tell whether it is one of those to learn from."""
        self._missed += 1
        return self._missed % max(1, self._limit // _LESSONS) == 0

    def ended(self) -> bool:
        """Tell whether it has ended, and begin anew if so."""
        if self._missed < self._limit:
            return False
        self._missed, self._limit = 0, self._limit * 2
        return True


@dataclass(slots=True)
class Surveyed:
    """What is known of one collection."""

    kinds: dict[bytes, set[str]] = field(default_factory=dict)
    order: list[bytes] = field(default_factory=list)
    """The fields in an order that fits most documents."""
    form: Form = field(default_factory=lambda: Form("canonical", None))
    """What the documents have in common, nested ones included, learned from a sample of them."""
    documents: int = 0
    outline: Match | None = None
    """Fits documents of the form, with nothing but what is known: the fastest look."""
    _first: Match | None = None
    _next: dict[bytes, Match] = field(default_factory=dict)
    """For each head (type and name) of a field whose length must be read, the match of the fields after it."""
    _before_outline: _Patience = field(default_factory=_Patience)
    _before_patterns: _Patience = field(default_factory=_Patience)

    def skim(self, data: bytes, start: int, stop: int) -> bool:
        """Tell whether a document has no fields but those known. False where that takes a closer look.

        Here, nested documents may hold anything.
        """
        if self._first is None:
            return False
        last, position, match = stop - 1, start + 4, self._first
        try:
            while (found := match(data, position, last)) is not None:
                position = found.end()
                if position == last:
                    return True
                # Here is a field whose length must be read, or nothing that is known.
                zero = data.index(0, position, last)
                head = data[position:zero]
                match = self._next[head]
                if head[0] == 0x05 and kind_at(data, 0x05, zero + 1) not in self.kinds[head[1:]]:
                    break
                position = ENDS[head[0]](data, zero + 1)
        except (IndexError, KeyError, ValueError):
            pass
        return False

    def add(self, name: bytes, kind: str, previous: bytes | None) -> None:
        """Note a field that a document has after ``previous``."""
        known = self.kinds.get(name)
        if known is None:
            known = self.kinds[name] = set()
            self.order.insert(0 if previous is None else self.order.index(previous) + 1, name)
        known.add(kind)

    def is_lesson(self) -> bool:
        """Count a document that is not of the outline; tell whether to learn from it."""
        return self._before_outline.count()

    def learn(self, data: bytes, start: int) -> None:
        """Learn from a valid document, whose fields are known."""
        with suppress(NotWorthItError):
            self.form.learn(data, start)
        if self._before_outline.ended():
            self.outline = re.compile(self.form.outline(self._value_pattern), re.DOTALL).fullmatch

    def _value_pattern(self, type_: int, name: bytes) -> bytes | None:
        kind = type_kind(type_)
        return value_pattern(kind, self.kinds[name]) if kind in SIZES and name in self.kinds else None

    def consider(self) -> None:
        """Count a document that was not skimmed; make patterns anew where there were too many."""
        self._before_patterns.count()
        if not self._before_patterns.ended():
            return
        names = self.order[:MOST_PATTERNED]
        waiting: list[list[bytes]] = [[]]
        heads: list[list[bytes]] = []
        for name in names:
            patterned = {kind for kind in self.kinds[name] if is_patterned(kind)}
            if patterned:
                waiting[-1].append(pattern(name, patterned))
            opened = [type_ + name for type_ in {TYPES[kind] for kind in self.kinds[name] if not is_patterned(kind)}]
            if opened:
                heads.append(opened)
                waiting.append([])
        self._first, *others = map(compiled, waiting)
        self._next = {head: match for opened, match in zip(heads, others, strict=True) for head in opened}


class ParquetSurvey:
    """See ``Survey``: one pass over the documents, at a tenth of what it takes to decode them."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, set[str]] = {b"_id": set()}
        self.collections: dict[str, Surveyed] = {}
        self.left_out = False
        """Whether there are fields without a column."""

    def see(self, collection: str, piece: Piece) -> None:
        """See ``Survey.see``."""
        surveyed = self.collections.setdefault(collection, Surveyed())
        surveyed.documents += len(piece)
        data = piece.data
        try:
            for start, stop in pairwise([*piece.offsets, len(data)]):
                outline = surveyed.outline
                if outline is None or outline(data, start, stop) is None:
                    self._look(surveyed, data, start, stop)
        except EncodingError as error:
            raise EncodingError(f"collection {collection!r}: {error}") from None

    def _look(self, surveyed: Surveyed, data: bytes, start: int, stop: int) -> None:
        lesson = surveyed.is_lesson()
        if lesson:
            encode_document(data[start:stop], "canonical")  # refuses what is damaged deep inside
        if lesson or not surveyed.skim(data, start, stop):
            self._note_fields(surveyed, data, start, stop)
            surveyed.consider()
        if lesson:
            surveyed.learn(data, start)

    def _note_fields(self, surveyed: Surveyed, data: bytes, start: int, stop: int) -> None:
        previous: bytes | None = None
        for kind, name, _, _, _ in fields(data, start, stop):
            known = self._kinds.get(name)
            if known is None:
                if len(self._kinds) >= MOST_COLUMNS or len(name) > LONGEST_NAME or not _is_text(name):
                    self.left_out = True
                    continue
                known = self._kinds[name] = set()
            known.add(kind)
            surveyed.add(name, kind, previous)
            previous = name

    def columns(self) -> list[Column]:
        """Return the columns for fields: ``_id`` first, then as they came."""
        columns = [
            Column(name, column_label(name), column_type(kinds), frozenset(kinds))
            for name, kinds in self._kinds.items()
        ]
        first = columns[0]
        if first.type_ == "json" or not first.kinds:
            columns[0] = Column(first.name, first.label, "text", first.kinds)
        return columns


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def arrow_type(type_: ColumnType) -> "pa.DataType":
    """Return what a column is stored as."""
    import pyarrow as pa

    return {
        "int32": pa.int32(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("ms", "UTC"),
        "binary": pa.binary(),
        "json": pa.json_(pa.utf8()),
    }.get(type_, pa.string())


def arrow_schema(columns: Iterable[Column], *, lossless: bool, left_out: bool) -> "pa.Schema":
    """Return the file's schema; a field's metadata names its origin types, and its own name where that gave way."""
    import pyarrow as pa

    own = [pa.field("_col", pa.dictionary(pa.int32(), pa.string()))]
    for column in columns:
        metadata = {b"mongodb_types": ",".join(sorted(column.kinds)).encode()}
        if column.label.encode() != column.name:
            metadata[b"mongodb_field"] = column.name
        own.append(pa.field(column.label, arrow_type(column.type_), metadata=metadata))
    if lossless:
        own.append(pa.field("_doc", pa.string(), metadata={b"content": b"the whole document, canonical Extended JSON"}))
    else:
        content = b"what no column holds, relaxed Extended JSON"
        own.append(pa.field("_rest", arrow_type("json"), metadata={b"content": content}))
    fields_of_rest = "_doc" if lossless else "_rest"
    note = f"only in {fields_of_rest}: there were more than {MOST_COLUMNS - 1} names, or very long ones"
    return pa.schema(own, metadata={b"other_fields": note.encode() if left_out else b"none"})
