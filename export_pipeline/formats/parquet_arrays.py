"""Arrow arrays of plain Python values, gathered until a row group is full.

Their buffers are made here, which is faster than ``pyarrow.array``; that would also import pandas wherever it is
installed, tens of megabytes that nothing here needs.
"""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_DIGITS = bytes.maketrans(b"\0\1", b"01")


class Gathered(ABC):
    """The values of one column so far; None stands for null."""

    _null: Any
    """What is stored where a null is."""

    def __init__(self, type_: "pa.DataType") -> None:
        self._type = type_
        self.count = 0
        """Values so far, nulls included."""
        self._held = bytearray()
        """For each value the digit 1, or 0 where it is null; empty as long as none is."""

    def extend(self, values: Sequence[Any]) -> int:
        """Add values; return how many bytes they take."""
        try:
            size = self._extend(values)
        except TypeError:  # there are nulls
            self._held += b"1" * (self.count - len(self._held))
            self._held += bytes(value is not None for value in values).translate(_DIGITS)
            size = self._extend([self._null if value is None else value for value in values])
        else:
            if self._held:
                self._held += b"1" * len(values)
        self.count += len(values)
        return size

    def fill(self, count: int) -> None:
        """Add as many nulls as are missing for there to be ``count`` values."""
        if self.count < count:
            self.extend([None] * (count - self.count))

    def array(self) -> "pa.Array":
        """Return all values as an array, and begin anew."""
        import pyarrow as pa

        held = pa.py_buffer(_bits(self._held)) if self._held else None
        buffers = [held, *map(pa.py_buffer, self._buffers())]
        made = pa.Array.from_buffers(_storage(self._type), self.count, buffers)
        self.count, self._held = 0, bytearray()
        return pa.ExtensionArray.from_storage(self._type, made) if isinstance(self._type, pa.JsonType) else made

    @abstractmethod
    def _extend(self, values: Sequence[Any]) -> int:
        """Add values that are not null; where some are, raise TypeError and add none."""

    @abstractmethod
    def _buffers(self) -> list[Any]:
        """Return the buffers that follow the one for nulls, and begin anew."""


class Numbers(Gathered):
    """Numbers, and dates in milliseconds."""

    _null = 0

    def __init__(self, type_: "pa.DataType", code: str) -> None:
        super().__init__(type_)
        self._values = array(code)

    def _extend(self, values: Sequence[Any]) -> int:
        added = array(self._values.typecode, values)
        self._values.extend(added)
        return len(added) * added.itemsize

    def _buffers(self) -> list[Any]:
        values, self._values = self._values, array(self._values.typecode)
        return [values]


class Booleans(Gathered):
    """Booleans, also as 0 and 1."""

    _null = 0

    def __init__(self, type_: "pa.DataType") -> None:
        super().__init__(type_)
        self._digits = bytearray()

    def _extend(self, values: Sequence[Any]) -> int:
        self._digits += bytes(values).translate(_DIGITS)
        return len(values)

    def _buffers(self) -> list[Any]:
        digits, self._digits = self._digits, bytearray()
        return [_bits(digits)]


class Texts(Gathered):
    """Texts in UTF-8, which they must be already, and binary values."""

    _null = b""

    def __init__(self, type_: "pa.DataType") -> None:
        super().__init__(type_)
        self._texts: list[bytes] = []
        self._ends = array("i", [0])

    def _extend(self, values: Sequence[Any]) -> int:
        joined = b"".join(values)
        self._texts.append(joined)
        last = self._ends.pop()
        self._ends.extend(array("i", list(accumulate(map(len, values), initial=last))))
        return len(joined) + len(values) * self._ends.itemsize

    def _buffers(self) -> list[Any]:
        texts, ends = b"".join(self._texts), self._ends
        self._texts, self._ends = [], array("i", [0])
        return [ends, texts]


def gathered(type_: "pa.DataType") -> Gathered:
    """Return a column of ``type_``, without values."""
    import pyarrow as pa

    if pa.types.is_boolean(type_):
        return Booleans(type_)
    codes = {pa.int32(): "i", pa.float64(): "d", pa.int64(): "q", pa.timestamp("ms", "UTC"): "q"}
    return Numbers(type_, codes[type_]) if type_ in codes else Texts(type_)


def repeated(text: str, count: int) -> "pa.Array":
    """Return one text ``count`` times."""
    import pyarrow as pa

    index = pa.Array.from_buffers(pa.int32(), count, [None, pa.py_buffer(bytes(4 * count))])
    one = Texts(pa.string())
    one.extend([text.encode()])
    return pa.DictionaryArray.from_arrays(index, one.array())


def _storage(type_: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    return type_.storage_type if isinstance(type_, pa.JsonType) else type_


def _bits(digits: bytearray) -> bytes:
    """Return binary digits as Arrow packs them, eight to a byte, the first as the lowest."""
    return int(digits[::-1], 2).to_bytes((len(digits) + 7) // 8, "little")
