"""Raw BSON documents to nested Arrow columns: each value is put at its place in a tree of columns.

Columns fill from the left: a slot that nothing was put in is null. What has no place is handed back as BSON, so that
it can be kept elsewhere: a second field of the same name, and what the survey did not see.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from itertools import accumulate, repeat
from struct import Struct
from typing import TYPE_CHECKING, Any

from export_pipeline.formats.bson_fields import LARGE_LONG, TYPES, Field, fields
from export_pipeline.formats.extended_json import encode_documents
from export_pipeline.formats.nested_schema import Place, arrow_field
from export_pipeline.formats.parquet_schema import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

_int32 = Struct("<i")
_int64 = Struct("<q")
_double = Struct("<d")


def _number(layout: Struct) -> Callable[[bytes, Field], Any]:
    unpack = layout.unpack_from
    return lambda data, field: unpack(data, field.value)[0]


_READ: dict[str, Callable[[bytes, Field], Any]] = {
    "int": _number(_int32),
    "long": _number(_int64),
    LARGE_LONG: _number(_int64),
    "double": _number(_double),
    "date": _number(_int64),
    "bool": lambda data, field: data[field.value] == 1,
    "objectId": lambda data, field: data[field.value : field.end].hex(),
    "binData": lambda data, field: data[field.value + 5 : field.end],
    "string": lambda data, field: data[field.value + 4 : field.end - 1].decode(),
    "null": lambda data, field: None,  # noqa: ARG005
}
"""How a value of each kind that has a real type is handed to Arrow."""


class Column(ABC):
    """The values at one place."""

    def __init__(self, kinds: Collection[str]) -> None:
        self._kinds = {*kinds, "null"}
        self._slots: list[Any] = []

    def add(self, slot: int, data: bytes, field: Field) -> bytes:
        """Put a field's value in a slot; return what has no place, as BSON that begins with the field's name."""
        filled = len(self._slots)
        if filled > slot or field.kind not in self._kinds:
            return data[field.begin : field.end]
        if filled < slot:
            self._slots.extend(repeat(None, slot - filled))
        return self._take(slot, data, field)

    def array(self, count: int) -> "pa.Array":
        """Return ``count`` slots as an array, and begin anew."""
        slots, self._slots = self._slots, []
        slots.extend(repeat(None, count - len(slots)))
        return self._array(slots)

    @abstractmethod
    def _take(self, slot: int, data: bytes, field: Field) -> bytes:
        """Append what fills the next slot, None for null."""

    @abstractmethod
    def _array(self, slots: list[Any]) -> "pa.Array":
        """Return an array of the filled slots."""


class _Values(Column):
    def __init__(self, place: Place, type_: "pa.DataType") -> None:
        super().__init__(place.kinds)
        self._type = type_

    def _take(self, slot: int, data: bytes, field: Field) -> bytes:  # noqa: ARG002
        try:
            self._slots.append(_READ[field.kind](data, field))
        except UnicodeDecodeError:  # a lone surrogate; Parquet's text has none
            return data[field.begin : field.end]
        return b""

    def _array(self, slots: list[Any]) -> "pa.Array":
        import pyarrow as pa

        return pa.array(slots, self._type)


class _Texts(Column):
    """Whatever stands at a place, as canonical Extended JSON."""

    def __init__(self) -> None:
        super().__init__(TYPES)

    def _take(self, slot: int, data: bytes, field: Field) -> bytes:  # noqa: ARG002
        element = b"%c\0%b" % (data[field.begin], data[field.value : field.end])
        self._slots.append(None if field.kind == "null" else document(element))
        return b""

    def _array(self, slots: list[Any]) -> "pa.Array":
        before = len(b'{"":')
        lines = iter(encode_documents(b"".join(filter(None, slots)), "canonical"))
        return json_array([slot and next(lines)[before:-1] for slot in slots])


class _List(Column):
    """Arrays; a slot holds how many items one has."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.kinds)
        items = place.items or Place()
        self._type = arrow_field("", place).type
        self._items, self._count = column(items), 0

    def _take(self, slot: int, data: bytes, field: Field) -> bytes:  # noqa: ARG002
        if field.kind == "null":
            self._slots.append(None)
            return b""
        before, whole = self._count, True
        add = self._items.add
        for number, item in enumerate(fields(data, field.value, field.end), before):
            self._count = number + 1
            if add(number, data, item):
                whole = False
        self._slots.append(self._count - before)
        return b"" if whole else data[field.begin : field.end]  # a part of an array says nothing without the rest

    def _array(self, slots: list[Any]) -> "pa.Array":
        import pyarrow as pa

        items, self._count = self._items.array(self._count), 0
        offsets = pa.array(accumulate((slot or 0 for slot in slots), initial=0), pa.int32())
        missing = pa.array([slot is None for slot in slots], pa.bool_())
        return pa.ListArray.from_arrays(offsets, items, type=self._type, mask=missing)


class _Struct(Column):
    """Embedded documents; a slot is true where there is one."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.kinds)
        self._type = arrow_field("", place).type
        self._fields = Fields(place)

    def _take(self, slot: int, data: bytes, field: Field) -> bytes:
        if field.kind == "null":
            self._slots.append(None)
            return b""
        self._slots.append(True)
        rest = self._fields.add(slot, data, field.value, field.end)
        return data[field.begin : field.value] + document(rest) if rest else b""

    def _array(self, slots: list[Any]) -> "pa.Array":
        import pyarrow as pa

        missing = pa.array([slot is None for slot in slots], pa.bool_())
        return pa.StructArray.from_arrays(self._fields.arrays(len(slots)), fields=list(self._type), mask=missing)


class Fields:
    """The columns of the documents at one place, the top among them."""

    def __init__(self, place: Place) -> None:
        self._columns = {name: column(inner) for name, inner in place.fields.items()}

    def add(self, slot: int, data: bytes, start: int, stop: int) -> bytes:
        """Put a document's fields in a slot; return those that have no place, as BSON."""
        rest = []
        columns = self._columns
        for field in fields(data, start, stop):
            there = columns.get(field.name)
            left = data[field.begin : field.end] if there is None else there.add(slot, data, field)
            if left:
                rest.append(left)
        return b"".join(rest)

    def arrays(self, count: int) -> list["pa.Array"]:
        """Return an array of ``count`` slots for each field, and begin anew."""
        return [inner.array(count) for inner in self._columns.values()]


def column(place: Place) -> Column:
    """Return an empty column for a place."""
    match place.form:
        case "struct":
            return _Struct(place)
        case "list":
            return _List(place)
        case "json":
            return _Texts()
        case form:
            return _Values(place, arrow_type(form))


def document(content: bytes) -> bytes:
    r"""Return BSON elements as a document.

    >>> document(b"")
    b'\x05\x00\x00\x00\x00'
    """
    return b"%b%b\0" % (_int32.pack(len(content) + 5), content)


def json_array(texts: list[bytes | None]) -> "pa.Array":
    """Return JSON texts as an array of Parquet's JSON type."""
    import pyarrow as pa

    return pa.ExtensionArray.from_storage(arrow_type("json"), pa.array(texts, pa.string()))
