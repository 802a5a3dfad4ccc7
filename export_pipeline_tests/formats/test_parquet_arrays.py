"""Arrow arrays made of buffers, beside those that pyarrow makes."""

from datetime import UTC
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.formats.parquet_arrays import gathered, repeated

TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "double": (pa.float64(), st.floats(allow_nan=False)),
    "bool": (pa.bool_(), st.booleans()),
    "timestamp": (pa.timestamp("ms", UTC), st.integers(-(2**45), 2**45)),
    "string": (pa.string(), st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)),
    "binary": (pa.binary(), st.binary()),
}


@pytest.mark.parametrize("name", TYPES)
@given(st.data())
def test_arrays_are_those_of_pyarrow(name: str, data: st.DataObject) -> None:
    type_, values = TYPES[name]
    column = gathered(type_)
    for _ in range(2):  # a column begins anew after each array
        parts = data.draw(st.lists(st.lists(values | st.none(), max_size=20), min_size=1, max_size=4))
        for part in parts:
            column.extend(part)
        whole = [value for part in parts for value in part]
        column.fill(len(whole) + 3)
        made = column.array()
        made.validate(full=True)
        assert made.equals(pa.array([*whole, None, None, None], type_))


def test_nulls_that_were_not_told_of_come_first() -> None:
    column = gathered(pa.string())
    column.fill(2)
    assert column.extend([b"ab", b"c"]) == 3 + 2 * 4
    column.fill(1)  # fewer than there are: nothing to do
    assert column.array().to_pylist() == [None, None, "ab", "c"]


def test_json_keeps_its_logical_type() -> None:
    column = gathered(pa.json_(pa.utf8()))
    column.extend([b"{}", None])
    made = column.array()
    assert made.type == pa.json_(pa.utf8())
    assert made.to_pylist() == ["{}", None]


def test_one_text_for_all_rows_takes_one_entry() -> None:
    made = repeated("events", 1000)
    made.validate(full=True)
    assert made.to_pylist() == ["events"] * 1000
    assert made.dictionary.to_pylist() == ["events"]
