"""What a nested Parquet file's columns are: a survey of one collection's fields at every depth.

Where the documents agree, a place gets a struct, a list or a real type; where they do not, JSON text for it alone.
What is kept is a tree of at most ``MOST_PLACES`` names and the kinds of values, however many documents are seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name says
from typing import TYPE_CHECKING, Literal, NoReturn

from export_pipeline.formats.bson_fields import ENDS, Field, fields, kind_at
from export_pipeline.formats.bson_walk import ARRAY, DOCUMENT
from export_pipeline.formats.extended_json import EncodingError, encode_documents
from export_pipeline.formats.parquet_schema import ColumnType, arrow_type, column_type
from export_pipeline.mongo.bson_stream import Piece

if TYPE_CHECKING:
    import pyarrow as pa

MOST_PLACES = 1000
"""Fields with a place of their own, over all depths; each column costs memory in each row group."""

DEEPEST = 16
"""Levels of structs and lists. Beyond, readers become slow, and a path to a value is more than a person types."""

LONGEST_NAME = 200
"""In bytes. Longer names are data."""

Form = Literal["struct", "list"] | ColumnType


@dataclass(slots=True)
class Place:
    """Where values stand: a field of a document, or the items of an array."""

    kinds: set[str] = field(default_factory=set)
    """What was seen to stand here; see ``bson_fields``."""
    fields: dict[bytes, "Place"] = field(default_factory=dict)
    """Of the documents that stand here."""
    items: "Place | None" = None
    """Of the arrays that stand here and are not empty."""
    whole: bool = False
    """Whether documents and arrays stay in one piece, as JSON text."""

    @property
    def form(self) -> Form:
        """What values are stored as.

        Parquet has no struct without fields, so documents that are always empty are JSON text.
        """
        values = self.kinds - {"null"}
        if values == {"object"} and self.fields:
            return "struct"
        if values == {"array"} and not self.whole:
            return "list"
        return column_type(values)

    def objects(self) -> Iterator["Place"]:
        """Yield this place and all in it where documents stand, the outer ones first."""
        if self.fields:
            yield self
        for inner in (*self.fields.values(), *([self.items] if self.items else [])):
            yield from inner.objects()

    def close(self) -> int:
        """Keep what stands here in one piece from now on; return how many fields lose their place."""
        inner = (*self.fields.values(), *([self.items] if self.items else []))
        lost = len(self.fields) + sum(place.close() for place in inner)
        self.fields, self.items, self.whole = {}, None, True
        return lost


class NestedSurvey:
    """See ``Survey``: one pass over the documents of one collection."""

    def __init__(self) -> None:
        self.root = Place({"object"})
        self.left_out = False
        """Whether there are top-level fields without a column."""
        self._collection: str | None = None
        self._places = 0
        self._full = False

    def see(self, collection: str, piece: Piece) -> None:
        """See ``Survey.see``. Raises ValueError for a second collection."""
        self._collection = the_one_collection(self._collection, collection)
        try:
            for start, stop in pairwise([*piece.offsets, len(piece.data)]):
                if not _is_known(self.root, piece.data, start, stop):
                    self._look(self.root, piece.data, start, stop, 1)
        except EncodingError as error:
            refuse(collection, piece, error)

    def _look(self, place: Place, data: bytes, start: int, stop: int, depth: int) -> None:
        for found in fields(data, start, stop):
            inner = place.fields.get(found.name) or self._new(place, found.name)
            if inner is not None:
                self._note(inner, data, found, depth)
            if place.whole:  # room was made of it
                return

    def _note(self, place: Place, data: bytes, found: Field, depth: int) -> None:
        """Note what kind of value stands at a place, and what is in it."""
        kind, kinds = found.kind, place.kinds
        kinds.add(kind)
        if place.whole or kind == "null" or kinds.isdisjoint(("object", "array")):
            return
        if depth > DEEPEST or len(kinds - {"null"}) > 1:
            self._places -= place.close()
        elif kind == "object":
            self._look(place, data, found.value, found.end, depth + 1)
        else:
            self._look_at_items(place, data, found, depth + 1)

    def _look_at_items(self, place: Place, data: bytes, found: Field, depth: int) -> None:
        for item in fields(data, found.value, found.end):
            if place.items is None:
                place.items = Place()
            self._note(place.items, data, item, depth)
            if place.whole:
                return

    def _new(self, place: Place, name: bytes) -> Place | None:
        """Return the place of a field that had none; None where it gets none."""
        names_a_column = _names_a_column(name)
        if place is self.root:
            if not names_a_column or not self._room_at_the_top():
                self.left_out = True
                return None
        elif not names_a_column:
            self._places -= place.close()
            return None
        elif not self._room_within(place):
            return None
        self._places += 1
        new = place.fields[name] = Place()
        return new

    def _room_at_the_top(self) -> bool:
        """Tell whether there is room for a top-level field, or a map can be closed to make some."""
        while not self._full and self._places >= MOST_PLACES:
            widest = self._widest(self.root)
            self._full = widest is self.root
            if not self._full:
                self._places -= widest.close()
        return not self._full

    def _room_within(self, place: Place) -> bool:
        """Make room for a field of embedded documents; tell whether they are still open to one."""
        while self._places >= MOST_PLACES:
            self._places -= self._widest(*self.root.fields.values()).close()
            if place.whole:
                return False
        return True

    def _widest(self, *places: Place) -> Place:
        # A document whose names are data (a map by date, by user) has more of them than others have fields.
        return max((found for place in places for found in place.objects()), key=lambda found: len(found.fields))


def _is_known(place: Place, data: bytes, start: int, stop: int) -> bool:
    """Tell whether a document or an array has nothing that its place has not seen: most have not.

    It takes a third of the time of a closer look, which is left to say what is wrong with what is no document.
    """
    position, last = start + 4, stop - 1
    items, inner_of, index = place.items, place.fields.get, data.index
    try:
        while position < last:
            zero = index(0, position, last)
            type_, value = data[position], zero + 1
            inner = items or inner_of(data[position + 1 : zero])
            if inner is None or kind_at(data, type_, value) not in inner.kinds:
                return False
            position = ENDS[type_](data, value)
            if type_ in (DOCUMENT, ARRAY) and not inner.whole and not _is_known(inner, data, value, position):
                return False
    except (IndexError, KeyError, ValueError, StructError):
        return False
    return position == last


def the_one_collection(known: str | None, collection: str) -> str:
    """Return the collection that a file is of. Raises ValueError where that is not the one known so far."""
    if known not in (None, collection):
        raise ValueError(f"a nested Parquet file holds one collection: {known!r} is in it, so {collection!r} cannot be")
    return collection


def refuse(collection: str, piece: Piece, error: EncodingError) -> NoReturn:
    """Raise EncodingError for a piece that holds a damaged document."""
    try:
        encode_documents(piece.data, "canonical")  # knows the name of the top-level field
    except EncodingError as better:
        error = better
    raise EncodingError(f"collection {collection!r}: {error}") from None


def _names_a_column(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:  # a lone surrogate
        return False
    return len(name) <= LONGEST_NAME


def arrow_field(label: str, place: Place, **metadata: bytes) -> "pa.Field":
    """Return the field of a place; its metadata names the origin types."""
    import pyarrow as pa

    origin = ",".join(sorted(place.kinds)).encode()
    match place.form:
        case "struct":
            type_ = pa.struct([arrow_field(name.decode(), inner) for name, inner in place.fields.items()])
        case "list":
            type_ = pa.list_(arrow_field("element", place.items or Place()))
        case form:
            type_ = arrow_type(form)
    return pa.field(label, type_, metadata={"mongodb_types": origin, **metadata})


def leaves(path: str, place: Place) -> Iterator[tuple[str, ColumnType]]:
    """Yield the columns of a place as Parquet names them, with their types.

    >>> list(leaves("tags", Place({"array"}, items=Place({"string"}))))
    [('tags.list.element', 'string')]
    """
    match place.form:
        case "struct":
            for name, inner in place.fields.items():
                yield from leaves(f"{path}.{name.decode()}", inner)
        case "list":
            yield from leaves(f"{path}.list.element", place.items or Place())
        case form:
            yield path, form
