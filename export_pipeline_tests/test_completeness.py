"""Property: whatever a database holds and whoever asks, an export is exactly what a plain find returns."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.regex import Regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export_pipeline.exporter import Exporter
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.slices import ownership, slice_file
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.test_exporter import LENIENT, in_json

KEYS = {"flat": "uid", "keyed": "_id", "nested": "to.uid", "shared": "uids"}
ENTRIES = [
    f"- {{name: {name}, plugin: p, collection: '{name}{{app_id}}', user_key: {key}}}" for name, key in KEYS.items()
]

IDS = [1, "1", bson.ObjectId("0" * 24), 1.5, {"k": "a"}, bson.Int64(2**40), b"1", True, "a", bson.MinKey(), None, -1]
"""Ids of many types: paging by one type would lose the others."""

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
names = st.sampled_from(["", "_col", "__col", "a", "b.c", "n", "__proto__"]) | text.filter(
    lambda name: "\0" not in name and not name.startswith("$")
)
scalars = st.one_of(
    # Extended JSON has one NaN: the spec's corpus calls the others lossy.
    st.none() | st.booleans() | text | st.floats(allow_nan=False) | st.just(math.nan),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1).map(bson.Int64),
    st.binary(max_size=6).map(lambda data: Binary(data, 5)),
    st.binary(min_size=12, max_size=12).map(bson.ObjectId),
    st.integers(-(2**60), 2**60).map(bson.DatetimeMS),
    st.decimals(allow_nan=False, places=3, min_value=-1000, max_value=1000).map(Decimal128),
    st.sampled_from([bson.MinKey(), bson.MaxKey(), bson.Timestamp(1, 2), Regex("a.*", "i"), bson.Code("f()")]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
fields = st.dictionaries(names.filter(lambda name: name not in {"_id", "uid", "to", "uids"}), values, max_size=4)

uids = st.sampled_from(["a", "b", "c", "A", "a ", "ab", "日本", "$ne", "1"])
held = uids | st.sampled_from([None, 1, True, {"uid": "a"}]) | text
keys = st.one_of(held, st.lists(held, max_size=3), st.lists(st.lists(uids, max_size=2), max_size=2))
ways_to = st.one_of(
    keys.map(lambda value: {"uid": value}), st.lists(keys.map(lambda value: {"uid": value}) | held, max_size=3), keys
)


def documents(name: str, key: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Documents with the key, or without it, before or after other fields."""
    keyed = st.builds(lambda value, rest: {name: value} | rest, key, fields)
    last = st.builds(lambda value, rest: rest | {name: value}, key, fields)
    return st.lists(keyed | last | fields, max_size=len(IDS)).map(
        lambda found: [{"_id": identity} | document for identity, document in zip(IDS, found, strict=False)]
    )


databases = st.fixed_dictionaries(
    {
        "flat": documents("uid", keys),
        "nested": documents("to", ways_to),
        "shared": documents("uids", keys),
        "keyed": st.dictionaries(uids | text, fields, max_size=5).map(
            lambda found: [{"_id": key} | rest for key, rest in found.items()]
        ),
    }
)
requests = st.lists(st.lists(uids, min_size=1, max_size=4), min_size=1, max_size=3)


@pytest.fixture
def exporter(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Exporter]:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("\n".join(["version: 1", "collections:", *ENTRIES]))
    filled = make_database({f"{name}x": [] for name in KEYS})
    with Exporter(filled.model_copy(update={"catalog": catalog})) as exporter:
        yield exporter


def exported(exporter: Exporter, wanted: list[list[str]]) -> list[Counter[Any]]:
    """Export to each list of uids a request, all in one batch; requests that are the same are one."""
    ids = [exporter.submit(NewRequest("x", uids, "json", "canonical")).id for uids in wanted]
    exporter.requests.claim(batch := Batch(new_id(), tuple(dict.fromkeys(ids))))
    plan = exporter.plan(batch.id)
    for entry in exporter.catalog.entries:
        exporter.read_slice(plan, entry.name)
    outcomes = {outcome.request_id: outcome for outcome in exporter.package(plan)}
    assert [outcome.error for outcome in outcomes.values()] == [None] * len(set(ids))
    return [in_json(Path(str(exporter.requests.get(request_id).result_uri))) for request_id in ids]


def found(exporter: Exporter, uids: list[str]) -> Counter[Any]:
    database = exporter.client[exporter.settings.mongo_database]
    return Counter(
        (f"{name}x", bson.encode(document))
        for name, key in KEYS.items()
        for document in database.get_collection(f"{name}x", LENIENT).find({key: {"$in": uids}})
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=databases, wanted=requests, uids_per_query=st.sampled_from([1, 2, 5000]), gather=st.sampled_from([1, 99])
)
def test_an_export_is_what_a_plain_find_returns(
    exporter: Exporter,
    content: dict[str, list[dict[str, Any]]],
    wanted: list[list[str]],
    uids_per_query: int,
    gather: int,
) -> None:
    database = exporter.client[exporter.settings.mongo_database]
    for name, filling in content.items():
        database[f"{name}x"].delete_many({})
        if filling:
            database[f"{name}x"].insert_many(filling)
    with pytest.MonkeyPatch.context() as patch:
        # Small enough for a few documents to be cut, gathered and put together again.
        patch.setattr(ownership, "UIDS_PER_QUERY", uids_per_query)
        patch.setattr(slice_file, "GATHER_BYTES", gather)
        results = exported(exporter, wanted)
    assert results == [found(exporter, uids) for uids in wanted]
