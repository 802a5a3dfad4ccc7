"""Which part of a person's data a request asks for: each option alone, beside what plain finds return."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import DatetimeMS, Int64, MaxKey, ObjectId, Regex, Timestamp, json_util
from bson.decimal128 import Decimal128
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient

from export_pipeline.catalog.load import load_catalog, parse_catalog
from export_pipeline.catalog.model import Entry, LoadedCatalog
from export_pipeline.catalog.narrowing import (
    EVERYTHING,
    MOST_FIELDS,
    MOST_SORT_KEYS,
    Narrowing,
    chosen_entries,
    extra_conditions,
    is_dated,
    parse_narrowing,
    projection,
    sort_order,
)
from export_pipeline.errors import BadInputError
from export_pipeline.exporter import Exporter
from export_pipeline.packages.manifest import Manifest
from export_pipeline.requests.batches import plan_batches
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline.slices import ownership

Client = MongoClient[dict[str, Any]]

DATABASE = "test_narrowing"

CATALOG = b"""
version: 1
collections:
- name: seconds
  plugin: times
  collection: seconds{app_id}
  user_key: uid
  time_field: at.t
  time_unit: s
  category: usage
  purpose: To count seconds.
  retention: a year
  source: the app
- {name: millis, plugin: times, collection: "millis{app_id}", user_key: uid, time_field: t, time_unit: ms,
   category: usage, purpose: To count them finer.}
- {name: dates, plugin: dates, collection: "dates{app_id}", user_key: uid, time_field: t, time_unit: date,
   category: opinions, portable: false}
- {name: plain, plugin: plain, collection: "plain{app_id}", user_key: uid}
- {name: nested, plugin: plain, collection: "nested{app_id}", user_key: to.uid, category: messaging}
- {name: keyed, plugin: plain, collection: "keyed{app_id}", user_key: _id.uid, category: messaging, portable: false}
"""

SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
FIRST, LAST = int(SINCE.timestamp()), int(UNTIL.timestamp())

NUMBERS_IN = [0, 1, Int64(5), 0.5, LAST - FIRST - 1]
NO_TIMES = [
    None,
    "2026-01-15",
    {},
    {"x": 1},
    [],
    ["x"],
    True,
    ObjectId(),
    Timestamp(1, 2),
    MaxKey(),
    Regex("1"),
    math.nan,
]
"""No time of any unit."""


def timed(unit: str) -> list[tuple[Any, bool]]:
    """Values of a time field, and whether a request from SINCE until UNTIL is handed their documents."""
    inside: list[Any]
    outside: list[Any]
    if unit == "date":
        inside = [SINCE, SINCE + timedelta(milliseconds=1), UNTIL - timedelta(milliseconds=1)]
        outside = [SINCE - timedelta(milliseconds=1), UNTIL, UNTIL + timedelta(days=1), DatetimeMS(2**62)]
        return [
            *((value, True) for value in [*inside, *NO_TIMES, 0, FIRST, FIRST * 1000, 0.5, Decimal128("1")]),
            *((value, False) for value in outside),
        ]
    scale = 1000 if unit == "ms" else 1
    inside = [FIRST * scale + value * scale for value in NUMBERS_IN]
    outside = [FIRST * scale - 1, FIRST * scale - 0.5, LAST * scale, LAST * scale + 1, 0, -5, math.inf, Int64(2**62)]
    return [
        *(
            (value, True)
            for value in [*inside, Decimal128(str(FIRST * scale)), Decimal128("NaN"), *NO_TIMES, SINCE, UNTIL]
        ),
        *((value, False) for value in [*outside, Decimal128(str(LAST * scale))]),
    ]


def documents() -> dict[str, list[dict[str, Any]]]:
    """By collection; half of each is another person's."""
    found: dict[str, list[dict[str, Any]]] = {
        "secondsx": [{"at": {"t": value}} for value, _ in timed("s")] + [{"at": 5}, {}],
        "millisx": [{"t": value} for value, _ in timed("ms")] + [{}],
        "datesx": [{"t": value} for value, _ in timed("date")] + [{}],
        "plainx": [
            {"n": number % 4, "s": "aBc"[number % 3], "in": {"a": number, "b": [number, {"c": number}]}, "mixed": mixed}
            for number, mixed in enumerate([3, "b", None, 1.5, [2, 9], {"x": 1}, True, "B", Int64(2), SINCE, "", "é"])
        ],
    }
    found = {
        name: [
            {"_id": 2 * number + who, "uid": uid, **document}
            for number, document in enumerate(of)
            for who, uid in enumerate("ab")
        ]
        for name, of in found.items()
    }
    # The order of insertion is not that of the ids.
    found["plainx"].reverse()
    found["nestedx"] = [
        {"_id": 1, "to": {"uid": "a", "name": "A"}, "text": "one"},
        {"_id": 2, "to": [{"uid": "b", "name": "B"}, {"uid": "a", "name": "A"}, 5], "text": "both"},
        {"_id": 3, "to": {"uid": ["b", "a"], "name": "AB"}, "text": "list"},
        {"_id": 4, "to": {"uid": "b"}, "text": "other"},
    ]
    found["keyedx"] = [{"_id": {"uid": uid, "k": number}, "v": number, "w": 1} for uid in "ab" for number in range(2)]
    return found


@pytest.fixture(scope="module")
def filled(mongo_client: Client) -> Iterator[Client]:
    """A client of the server, with the app "x" in the database of these tests."""
    mongo_client.drop_database(DATABASE)
    for name, of in documents().items():
        mongo_client[DATABASE][name].insert_many(of)
    yield mongo_client
    mongo_client.drop_database(DATABASE)


@pytest.fixture(scope="module")
def catalog() -> LoadedCatalog:
    """Six entries, with every kind of time."""
    return parse_catalog(CATALOG, Path("catalog.yaml"))


@pytest.fixture
def installation(settings: Settings, filled: Client, tmp_path: Path) -> Iterator[Exporter]:
    """The library on that database and that catalogue."""
    (tmp_path / "catalog.yaml").write_bytes(CATALOG)
    with Exporter(
        settings.model_copy(update={"mongo_database": DATABASE, "catalog": tmp_path / "catalog.yaml"})
    ) as opened:
        yield opened


def export(
    exporter: Exporter, uids: list[str] | None = None, **narrowing: Any
) -> tuple[Manifest, dict[str, list[bytes]]]:
    """Export a person; return the manifest, and by collection the documents in their order."""
    new = NewRequest("x", uids or ["a"], "json", "canonical", narrowing=parse_narrowing(narrowing))
    output = exporter.settings.home / "out.json"
    manifest = exporter.run_here(exporter.submit(new, run_here=True), output)
    found: dict[str, list[bytes]] = {report.collection: [] for report in manifest.collections}
    canonical = json_util.JSONOptions(
        json_mode=json_util.JSONMode.CANONICAL, datetime_conversion=bson.codec_options.DatetimeConversion.DATETIME_MS
    )
    for line in json.loads(output.read_bytes()):
        collection = line.pop("_col")
        found[collection].append(bson.encode(json_util.loads(json.dumps(line), json_options=canonical)))
    for report in manifest.collections:
        assert report.documents_expected == report.documents_written == len(found[report.collection])
    return manifest, found


def plainly(
    client: Client, collection: str, selector: Mapping[str, Any], projection: Any = None, **how: Any
) -> list[bytes]:
    """What a plain find returns."""
    raw = client[DATABASE].get_collection(
        collection, bson.CodecOptions(datetime_conversion=bson.codec_options.DatetimeConversion.DATETIME_MS)
    )
    return [bson.encode(document) for document in raw.find(selector, projection, **how)]


# All of it


def test_without_options_all_of_it_is_handed_over(installation: Exporter, filled: Client) -> None:
    manifest, found = export(installation)
    keys = {entry.collection_of("x"): str(entry.user_key) for entry in installation.catalog.entries}
    assert {name: sorted(of) for name, of in found.items()} == {
        name: sorted(plainly(filled, name, {key: "a"})) for name, key in keys.items()
    }
    assert manifest.selection == {}
    assert manifest.not_asked == ()
    assert EVERYTHING.stored() == {}


# Dates


@pytest.mark.parametrize(
    ("name", "unit", "field"), [("seconds", "s", "at.t"), ("millis", "ms", "t"), ("dates", "date", "t")]
)
def test_dates_are_in_the_entrys_unit_from_since_to_before_until(
    installation: Exporter, filled: Client, name: str, unit: str, field: str
) -> None:
    _, found = export(installation, since=SINCE.isoformat(), until=UNTIL.isoformat(), collections=[name])
    ids = [bson.decode(document)["_id"] for document in found[f"{name}x"]]
    values = timed(unit)
    timeless = [2 * (len(values) + number) for number in range(len(documents()[f"{name}x"]) // 2 - len(values))]
    assert timeless, "there are documents without the field"
    assert ids == [2 * number for number, (_, inside) in enumerate(values) if inside] + timeless
    left_out = [2 * number for number, (_, inside) in enumerate(values) if not inside]
    kind = "date" if unit == "date" else "number"
    bounds = {"s": (FIRST, LAST), "ms": (FIRST * 1000, LAST * 1000), "date": (SINCE, UNTIL)}[unit]
    for query in ({"$lt": bounds[0]}, {"$gte": bounds[1]}):
        outside = filled[DATABASE][f"{name}x"].distinct("_id", {"uid": "a", field: {**query, "$type": kind}})
        assert set(outside) <= set(left_out)
        left_out = [number for number in left_out if number not in outside]
    assert left_out == []


@pytest.mark.parametrize(
    ("narrowing", "ids"),
    [
        ({"since": UNTIL - timedelta(milliseconds=1)}, [4, 8, 10, 12]),
        ({"until": SINCE}, [0, 6]),
        ({"until": SINCE + timedelta(milliseconds=1)}, [0, 2, 6]),
        ({"since": SINCE + timedelta(hours=1), "until": UNTIL.replace(tzinfo=None)}, [4]),
    ],
)
def test_one_bound_is_enough(filled: Client, catalog: LoadedCatalog, narrowing: dict[str, Any], ids: list[int]) -> None:
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
    values = [
        *(SINCE - timedelta(days=1), SINCE, UNTIL - timedelta(milliseconds=1)),
        first,
        UNTIL,
        DatetimeMS(2**62),
        last,
    ]
    filled[DATABASE].drop_collection("bounds")
    filled[DATABASE]["bounds"].insert_many([{"_id": 2 * number, "t": value} for number, value in enumerate(values)])
    conditions = extra_conditions(catalog.entry("dates"), Narrowing(**narrowing))
    assert sorted(filled[DATABASE]["bounds"].distinct("_id", {"$and": conditions})) == ids


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AROUND = [
    datetime(2026, 1, 1, tzinfo=UTC),
    # Where seconds as doubles, times 1000, are not always the whole milliseconds that they should be.
    datetime(2004, 1, 25, 3, 6, 40, tzinfo=UTC),
    datetime(2038, 2, 1, tzinfo=UTC),
]
_OFFSETS = [*range(-2000, 2000, 77), *range(-3, 4)]
_MILLIS = [(begin - _EPOCH) // timedelta(milliseconds=1) + offset for begin in _AROUND for offset in _OFFSETS]
_BOUNDS = st.builds(
    lambda begin, offset, micros: begin + timedelta(milliseconds=offset, microseconds=micros),
    st.sampled_from(_AROUND),
    st.sampled_from(_OFFSETS),
    st.sampled_from([0, 0, 1, -1, 500, 999]),
)


@pytest.fixture(scope="module")
def moments(filled: Client) -> Client:
    """A client of the server, with a document at each of many moments in each unit."""
    values = {
        "s": [value / 1000 for value in _MILLIS],
        "ms": _MILLIS,
        "date": [DatetimeMS(value) for value in _MILLIS],
    }
    for unit, of in values.items():
        filled[DATABASE].drop_collection(f"moments_{unit}")
        filled[DATABASE][f"moments_{unit}"].insert_many(
            [{"_id": number, "t": value, "at": {"t": value}} for number, value in enumerate(of)]
        )
    return filled


@given(_BOUNDS, _BOUNDS, st.integers(-14, 14))
def test_bounds_are_exact_to_the_microsecond(
    moments: Client, catalog: LoadedCatalog, one: datetime, other: datetime, zone: int
) -> None:
    since, until = sorted([one, other])
    until += timedelta(microseconds=since == until)
    first, last = ((moment - _EPOCH) // timedelta(microseconds=1) for moment in (since, until))
    expected = [number for number, value in enumerate(_MILLIS) if first <= value * 1000 < last]
    narrowing = Narrowing(since=since.astimezone(timezone(timedelta(hours=zone))), until=until)
    for name, unit in (("seconds", "s"), ("millis", "ms"), ("dates", "date")):
        conditions = extra_conditions(catalog.entry(name), narrowing)
        assert sorted(moments[DATABASE][f"moments_{unit}"].distinct("_id", {"$and": conditions})) == expected, name


@pytest.mark.parametrize(
    "narrowing",
    [
        {"since": "0001-01-01T00:00:00+14:00"},
        {"until": "9999-12-31T23:59:59.9999-14:00"},
        {"since": "0001-01-01", "until": "9999-12-31T23:59:59.999999"},
    ],
)
def test_the_first_and_the_last_day_are_moments_too(installation: Exporter, narrowing: dict[str, Any]) -> None:
    manifest, found = export(installation, **narrowing)
    assert manifest.selection == parse_narrowing(narrowing).stored()
    assert 0 < len(found["datesx"]) < len(documents()["datesx"])


def test_a_collection_without_a_time_field_is_handed_over_whole_and_the_manifest_says_so(
    installation: Exporter, filled: Client
) -> None:
    manifest, found = export(installation, since="2026-01-01", until="2026-01-02")
    assert sorted(found["plainx"]) == sorted(plainly(filled, "plainx", {"uid": "a"}))
    applies = {report.name: report.date_range_applies for report in manifest.collections}
    assert applies == {
        **dict.fromkeys(["seconds", "millis", "dates"], True),
        **dict.fromkeys(["plain", "nested", "keyed"], False),
    }
    assert manifest.selection == {"since": "2026-01-01T00:00:00", "until": "2026-01-02T00:00:00"}
    assert all(report.date_range_applies for report in export(installation)[0].collections), "where none is asked for"


def test_a_moment_without_a_zone_is_utc(catalog: LoadedCatalog) -> None:
    entry = catalog.entry("millis")
    same = [
        parse_narrowing({"since": since})
        for since in (
            "2026-01-01",
            "2026-01-01T00:00",
            "2026-01-01T00:00:00Z",
            "2026-01-01 02:00+02:00",
            SINCE,
            date(2026, 1, 1),
        )
    ]
    assert all(extra_conditions(entry, narrowing) == extra_conditions(entry, same[0]) for narrowing in same)
    assert is_dated(entry, same[0])
    assert not is_dated(entry, EVERYTHING)
    assert not is_dated(catalog.entry("plain"), same[0])


@pytest.mark.parametrize(
    ("since", "until", "reason"),
    [
        ("2026-01-02", "2026-01-01", "selection: since must be before until"),
        ("2026-01-01", "2026-01-01T00:00:00Z", "selection: since must be before until"),
        ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+02:00", "selection: since must be before until"),
        ("yesterday", None, "since: expected a moment such as 2026-01-31"),
        ("", None, "since: expected a moment"),
        (None, "20260131", "until: expected a moment"),
        (None, "1769817600", "until: expected a moment"),
        (1769817600, None, "since: expected a moment"),
        (True, None, "since: expected a moment"),
        (math.nan, None, "since: expected a moment"),
        ("2026-02-30", None, "since: Input should be a valid datetime"),
        ("2026-01-01T25:00", None, "since: Input should be a valid datetime"),
        ("2026-01-01; drop", None, "since: Input should be a valid datetime"),
    ],
)
def test_what_is_no_range_is_refused(since: Any, until: Any, reason: str) -> None:
    with pytest.raises(BadInputError, match=f"^{re.escape(reason)}"):
        parse_narrowing({"since": since, "until": until})


# Which collections


@pytest.mark.parametrize(
    ("narrowing", "names"),
    [
        ({}, "seconds millis dates plain nested keyed"),
        ({"collections": ["plain", "seconds"]}, "seconds plain"),
        ({"collections": ["plain", "plain"]}, "plain"),
        ({"exclude_collections": ["plain", "seconds"]}, "millis dates nested keyed"),
        ({"plugins": ["plain"]}, "plain nested keyed"),
        ({"exclude_plugins": ["plain", "dates"]}, "seconds millis"),
        ({"categories": ["usage", "opinions"]}, "seconds millis dates"),
        ({"exclude_categories": ["usage", "messaging"]}, "dates plain"),
        (
            {"collections": ["plain", "nested", "dates"], "plugins": ["plain"], "exclude_categories": ["messaging"]},
            "plain",
        ),
        ({"plugins": ["times"], "exclude_collections": ["millis"]}, "seconds"),
        ({"profile": "access"}, "seconds millis dates plain nested keyed"),
        ({"profile": "portability"}, "seconds millis plain nested"),
        ({"profile": "portability", "categories": ["messaging"]}, "nested"),
    ],
)
def test_collections_are_named_or_left_out_in_the_catalogues_order(
    catalog: LoadedCatalog, narrowing: dict[str, Any], names: str
) -> None:
    assert [entry.name for entry in chosen_entries(parse_narrowing(narrowing), catalog)] == names.split()


_KNOWN = "collections: 1 of the names are not among: dates, keyed, millis, nested, plain, seconds"


@pytest.mark.parametrize(
    ("narrowing", "reason"),
    [
        ({"collections": ["secret", "plain"]}, _KNOWN),
        ({"exclude_collections": ["secret"]}, "collections: 1 of the names are not among: dates, keyed,"),
        ({"collections": ["Plain"]}, "collections: 1 of the names are not among: "),
        ({"plugins": ["secret", "times", "other"]}, "plugins: 2 of the names are not among: dates, plain, times"),
        ({"exclude_plugins": ["secret"]}, "plugins: 1 of the names are not among: dates, plain, times"),
        ({"categories": ["secret"]}, "categories: 1 of the names are not among: messaging, opinions, usage"),
        ({"exclude_categories": ["secret"]}, "categories: 1 of the names are not among: messaging, opinions, usage"),
        ({"fields": {"secret": ["a"]}}, "fields: 1 of the names are not among: dates, keyed, millis,"),
        ({"where": {"secret": {}}}, "where: 1 of the names are not among: dates, keyed, millis,"),
        ({"sort": {"secret": ["a"]}}, "sort: 1 of the names are not among: dates, keyed, millis,"),
        ({"where": {"dates": {}}, "collections": ["plain"]}, "where: 1 of the names are not among: plain"),
        ({"collections": ["plain"], "exclude_plugins": ["plain"]}, "this selection leaves no collection to read"),
        ({"profile": "portability", "plugins": ["dates"]}, "this selection leaves no collection to read"),
        ({"fields": {"plain": []}}, f"fields, plain: name 1 to {MOST_FIELDS} fields"),
        ({"fields": {"plain": ["secret"] * (MOST_FIELDS + 1)}}, f"fields, plain: name 1 to {MOST_FIELDS} fields"),
        ({"fields": {"plain": ["$secret"]}}, "fields, plain: the operator $secret is not allowed; name a field"),
        ({"fields": {"plain": ["a.$"]}}, "fields, plain: a field's path is names with dots"),
        ({"sort": {"plain": ["-"]}}, "sort, plain: a field's path is names with dots"),
        ({"sort": {"plain": ["--n"], "dates": [""]}}, "sort, dates: a field's path is names with dots"),
        ({"sort": {"plain": ["$natural"]}}, "sort, plain: the operator $natural is not allowed"),
        ({"sort": {"plain": ["secret"] * (MOST_SORT_KEYS + 1)}}, f"sort, plain: name at most {MOST_SORT_KEYS} fields"),
        ({"where": {"plain": {"$where": "secret"}}}, "where, plain: the operator $where is not allowed"),
    ],
)  # fmt: skip
def test_what_the_catalogue_does_not_know_is_refused_with_what_it_knows(
    catalog: LoadedCatalog, narrowing: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadInputError) as raised:
        chosen_entries(parse_narrowing(narrowing), catalog)
    assert str(raised.value).startswith(reason)
    assert "secret" not in str(raised.value).replace("$secret", "")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "selection: Input should be a valid dictionary"),
        (["secret"], "selection: Input should be a valid dictionary"),
        ({"secret\nfield": 1}, "selection: Extra inputs are not permitted"),
        ({7: 1}, "selection: Keys should be strings"),
        ({"collections": "secret"}, "collections: Input should be a valid tuple"),
        ({"collections": {"secret": 1}}, "collections: Input should be a valid tuple"),
        ({"plugins": ["a", 7, None]}, "plugins: Input should be a valid string"),
        ({"where": [{"secret": 1}]}, "where: Input should be a valid"),
        ({"where": {"secret\nname": 1}}, "where: Input should be a valid"),
        ({"fields": {"secret": "abc"}}, "fields: Input should be a valid tuple"),
        ({"sort": {"secret": 1}}, "sort: Input should be a valid tuple"),
        ({"limit": 0}, "limit: Input should be greater than or equal to 1"),
        ({"limit": -1}, "limit: Input should be greater than or equal to 1"),
        ({"limit": 10**400}, "limit: Input should be less than or equal to 10000000"),
        ({"limit": True}, "limit: Input should be a valid integer"),
        ({"limit": 1.0}, "limit: Input should be a valid integer"),
        ({"limit": "5"}, "limit: Input should be a valid integer"),
        ({"profile": "secret"}, "profile: Input should be 'access' or 'portability'"),
        ({"profile": ""}, "profile: Input should be 'access' or 'portability'"),
        ({"collections": [7] * 10_000}, "collections: Input should be a valid string"),
    ],
)
def test_what_is_no_narrowing_is_refused_naming_the_field_and_no_value(given: Any, reason: str) -> None:
    with pytest.raises(BadInputError) as raised:
        parse_narrowing(given)
    assert str(raised.value).startswith(reason)
    assert "secret" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_what_is_stored_is_what_was_asked_for() -> None:
    asked = parse_narrowing(
        {
            "since": "2026-01-01",
            "until": "2026-02-01T00:00:00.000001+02:00",
            "collections": ["a", "b"],
            "exclude_categories": ["c"],
            "fields": {"a": ["x", "y.z"]},
            "where": {"a": {"n": {"$in": [1, None, {"$oid": "0" * 24}]}}},
            "sort": {"a": ["-n", "x"]},
            "limit": 5,
            "profile": "access",
        }
    )
    assert parse_narrowing(json.loads(json.dumps(asked.stored()))) == asked
    assert asked.stored().keys() | {"exclude_collections", "plugins", "exclude_plugins", "categories"} == {
        *Narrowing.model_fields
    }


# Fields


@pytest.mark.parametrize(
    ("collection", "key", "fields"),
    [
        ("plain", "uid", ["n"]),
        ("plain", "uid", ["n", "s", "n"]),
        ("plain", "uid", ["in.a"]),
        ("plain", "uid", ["in.b.c"]),
        ("plain", "uid", ["in.a", "in"]),
        ("plain", "uid", ["in", "in.a", "in.b.c"]),
        ("plain", "uid", ["in.b", "in.a"]),
        ("plain", "uid", ["_id"]),
        ("plain", "uid", ["no.such", "nor.this"]),
        ("plain", "uid", ["uid"]),
        ("nested", "to.uid", ["text"]),
        ("nested", "to.uid", ["to.name"]),
        ("nested", "to.uid", ["to"]),
        ("nested", "to.uid", ["to.uid", "text"]),
    ],
)
def test_fields_are_those_asked_for_with_those_that_say_whose_it_is(
    installation: Exporter, filled: Client, collection: str, key: str, fields: list[str]
) -> None:
    manifest, found = export(installation, collections=[collection], fields={collection: fields})
    outer = [path for path in {*fields, key} if not any(path.startswith(f"{other}.") for other in {*fields, key})]
    expected = plainly(filled, f"{collection}x", {key: "a"}, dict.fromkeys(outer, 1))
    assert sorted(found[f"{collection}x"]) == sorted(expected)
    for document in map(bson.decode, found[f"{collection}x"]):
        assert set(document) <= {"_id", key.split(".")[0], *(path.split(".")[0] for path in fields)}
    assert manifest.selection["fields"] == {collection: fields}


@pytest.mark.parametrize("fields", [["v"], ["_id.k"], ["_id.k", "v"], ["_id", "v"], ["_id.uid", "_id.k"]])
def test_the_id_is_always_there_and_whole(installation: Exporter, filled: Client, fields: list[str]) -> None:
    _, found = export(installation, collections=["keyed"], fields={"keyed": fields})
    expected = plainly(filled, "keyedx", {"_id.uid": "a"}, ["v"] if "v" in fields else ["_id"])
    assert sorted(found["keyedx"]) == sorted(expected)
    assert all(bson.decode(document)["_id"].keys() == {"uid", "k"} for document in found["keyedx"])
    _, found = export(installation, collections=["plain"], fields={"plain": ["_id.x"]})
    assert sorted(found["plainx"]) == sorted(plainly(filled, "plainx", {"uid": "a"}, ["uid"]))


def test_fields_of_one_collection_leave_the_others_whole(installation: Exporter, filled: Client) -> None:
    _, found = export(installation, collections=["plain", "nested"], fields={"nested": ["text"]})
    assert sorted(found["plainx"]) == sorted(plainly(filled, "plainx", {"uid": "a"}))


def test_fields_of_several_people_are_still_told_apart(installation: Exporter, filled: Client) -> None:
    """The user key decides whose a document is, so it is read whatever is asked for."""
    _, found = export(installation, ["a", "b"], collections=["nested"], fields={"nested": ["text"]})
    assert sorted(found["nestedx"]) == sorted(plainly(filled, "nestedx", {}, ["text", "to.uid"]))


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "_id", "uid", "ab"]), min_size=1, max_size=3).map(".".join), min_size=1
    )
)
def test_no_path_of_a_projection_lies_inside_another(paths: list[str]) -> None:
    """MongoDB refuses a projection in which one does."""
    entry = Entry(name="e", plugin="p", collection="e{app_id}", user_key="uid.a")
    chosen = projection(entry, Narrowing(fields={"e": tuple(paths)}))
    assert chosen is not None
    assert set(chosen.values()) == {1}
    assert "_id" in chosen
    for path in [*paths, "_id", "uid.a"]:
        assert sum(path == kept or path.startswith(f"{kept}.") for kept in chosen) == 1


def test_without_fields_there_is_no_projection(catalog: LoadedCatalog) -> None:
    narrowing = Narrowing(fields={"plain": ("n",)})
    assert projection(catalog.entry("dates"), narrowing) is None
    assert projection(catalog.entry("plain"), narrowing) == {"n": 1, "_id": 1, "uid": 1}


# Conditions


@pytest.mark.parametrize(
    "where",
    [
        {"n": 1},
        {"n": {"$eq": 1}},
        {"n": {"$ne": 1}},
        {"n": {"$gt": 1}},
        {"n": {"$gte": 1}},
        {"n": {"$lt": 2}},
        {"n": {"$lte": 2}},
        {"n": {"$gt": 0, "$lt": 3, "$ne": 2}},
        {"n": {"$in": [0, 3, "x"]}},
        {"n": {"$nin": [0, 3]}},
        {"mixed": {"$exists": True}},
        {"no.such": {"$exists": False}},
        {"no.such": None},
        {"mixed": None},
        {"mixed": 2},
        {"mixed": {"$gt": "A"}},
        {"mixed": {"$gte": 1.5}},
        {"mixed": True},
        {"mixed.x": 1},
        {"s": "a", "n": {"$lt": 3}},
        {"s": "b"},
        {"in.b.c": {"$gte": 5}},
        {"in.b": 4},
        {"_id": {"$lt": 9}},
        {"uid": "b"},
        {"uid": {"$ne": "a"}},
        {},
    ],
    ids=json.dumps,
)
def test_conditions_join_the_one_on_the_user(installation: Exporter, filled: Client, where: dict[str, Any]) -> None:
    _, found = export(installation, collections=["plain"], where={"plain": where})
    assert sorted(found["plainx"]) == sorted(plainly(filled, "plainx", {"$and": [{"uid": "a"}, where]}))


def test_conditions_take_the_types_that_json_has_not(installation: Exporter, filled: Client) -> None:
    _, found = export(installation, collections=["plain"], where={"plain": {"mixed": {"$date": SINCE.isoformat()}}})
    assert found["plainx"] == plainly(filled, "plainx", {"uid": "a", "mixed": SINCE})
    assert len(found["plainx"]) == 1


def test_conditions_and_dates_hold_together(installation: Exporter) -> None:
    where = {"millis": {"_id": {"$lt": 6}}}
    _, found = export(installation, collections=["millis"], where=where, since=SINCE.isoformat())
    assert [bson.decode(document)["_id"] for document in found["millisx"]] == [0, 2, 4]


def test_conditions_of_a_request_do_not_reach_its_neighbours(installation: Exporter) -> None:
    asked = [
        installation.submit(NewRequest("x", [uid], narrowing=parse_narrowing(narrowing)))
        for uid, narrowing in (("a", {"where": {"plain": {"n": 1}}}), ("b", {}), ("a", {"where": {"plain": {"n": 1}}}))
    ]
    batches = [set(batch.request_ids) for batch in plan_batches(asked, 10)]
    assert batches == [{asked[0].id, asked[2].id}, {asked[1].id}]


# Order and limit


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (["n"], [("n", 1), ("_id", 1)]),
        (["-n"], [("n", -1), ("_id", 1)]),
        (["-s", "n"], [("s", -1), ("n", 1), ("_id", 1)]),
        (["mixed"], [("mixed", 1), ("_id", 1)]),
        (["-mixed"], [("mixed", -1), ("_id", 1)]),
        (["in.b.c"], [("in.b.c", 1), ("_id", 1)]),
        (["-_id"], [("_id", -1)]),
        (["n", "-_id"], [("n", 1), ("_id", -1)]),
        (["no.such"], [("no.such", 1), ("_id", 1)]),
        ([], [("_id", 1)]),
    ],
)
@pytest.mark.parametrize("limit", [None, 1, 5, 1000])
def test_the_order_is_the_servers_and_ties_are_broken_by_the_id(
    installation: Exporter, filled: Client, sort: list[str], expected: list[tuple[str, int]], limit: int | None
) -> None:
    manifest, found = export(installation, collections=["plain"], sort={"plain": sort}, limit=limit)
    assert sort_order(installation.catalog.entry("plain"), Narrowing(sort={"plain": tuple(sort)})) == expected
    assert found["plainx"] == plainly(filled, "plainx", {"uid": "a"}, sort=expected, limit=limit or 0)
    assert manifest.totals.documents_written == min(limit or 12, 12)
    ids = [bson.decode(document)["_id"] for document in found["plainx"]]
    (report,) = manifest.collections
    assert (report.first_id, report.last_id) == tuple({"$numberInt": str(ids[end])} for end in (0, -1))


def test_as_many_keys_as_are_allowed_can_be_sorted_by(installation: Exporter) -> None:
    keys = [f"f{number}" for number in range(MOST_SORT_KEYS)]
    _, found = export(installation, collections=["plain"], sort={"plain": keys})
    assert [bson.decode(document)["_id"] for document in found["plainx"]] == list(range(0, 24, 2))


def test_without_a_sort_the_order_is_nobodys(catalog: LoadedCatalog) -> None:
    assert sort_order(catalog.entry("plain"), Narrowing(sort={"dates": ("t",)})) == []


def test_a_limit_counts_for_each_collection_and_after_the_conditions(installation: Exporter) -> None:
    manifest, _ = export(installation, limit=2, where={"plain": {"n": 3}}, sort={"plain": ["-_id"]})
    assert {report.name: report.documents_written for report in manifest.collections} == {
        **dict.fromkeys(["seconds", "millis", "dates", "plain", "nested", "keyed"], 2)
    }
    plain = manifest.collections[3]
    assert (plain.first_id, plain.last_id) == ({"$numberInt": "22"}, {"$numberInt": "14"})
    assert manifest.selection["limit"] == 2


def test_a_limit_counts_for_a_request_of_several_people_and_none_shares_its_batch(installation: Exporter) -> None:
    _, found = export(installation, ["a", "b"], collections=["plain"], sort={"plain": ["_id"]}, limit=3)
    assert [bson.decode(document)["_id"] for document in found["plainx"]] == [0, 1, 2]
    limited = [installation.submit(NewRequest("x", [uid], narrowing=Narrowing(limit=3))) for uid in "abc"]
    assert [len(batch.request_ids) for batch in plan_batches(limited, 10)] == [1, 1, 1]


@pytest.mark.parametrize("narrowing", [{"limit": 3}, {"sort": {"plain": ["n"]}}])
def test_more_people_than_one_query_takes_can_be_neither_sorted_nor_limited(
    installation: Exporter, monkeypatch: pytest.MonkeyPatch, narrowing: dict[str, Any]
) -> None:
    """Several queries one after the other would give several orders, and limits."""
    monkeypatch.setattr(ownership, "UIDS_PER_QUERY", 1)
    assert export(installation, ["a"], collections=["plain"], **narrowing)
    with pytest.raises(
        Exception, match="plain: a request of so many ids takes several queries, so it cannot sort or limit"
    ):
        export(installation, ["a", "b"], collections=["plain"], **narrowing)


# Profiles


def test_access_is_everything_with_a_notice(installation: Exporter) -> None:
    manifest, _ = export(installation, profile="access")
    assert manifest.selection == {"profile": "access"}
    assert manifest.not_asked == ()
    assert manifest.notice is not None
    notice = {part.category: part for part in manifest.notice}
    assert list(notice) == ["usage", "opinions", "not stated", "messaging"]
    assert notice["usage"].collections == ("seconds", "millis")
    assert notice["usage"].purposes == ("To count seconds.", "To count them finer.")
    assert (notice["usage"].retention, notice["usage"].sources) == (("a year",), ("the app",))
    assert notice["opinions"].purposes == ("not stated in the catalogue",)
    assert [name for part in manifest.notice for name in part.collections] == [
        *("seconds", "millis", "dates", "plain", "nested", "keyed")
    ]


def test_portability_leaves_out_what_was_derived_and_names_it(installation: Exporter) -> None:
    manifest, found = export(installation, profile="portability")
    assert manifest.not_asked == ("dates", "keyed")
    assert manifest.notice is None
    assert list(found) == ["secondsx", "millisx", "plainx", "nestedx"]
    assert [report.name for report in manifest.collections] == ["seconds", "millis", "plain", "nested"]


def test_what_is_left_out_is_named_whatever_leaves_it_out(installation: Exporter) -> None:
    manifest, _ = export(installation, profile="access", exclude_plugins=["times"], exclude_collections=["keyed"])
    assert manifest.not_asked == ("seconds", "millis", "keyed")
    assert [part.category for part in manifest.notice or ()] == ["opinions", "not stated", "messaging"]


def test_the_packaged_catalogue_takes_each_of_its_own_names() -> None:
    packaged = load_catalog()
    for entry in packaged.entries:
        named = {"collections": [entry.name], "fields": {entry.name: ["a"]}, "where": {entry.name: {"a": 1}}}
        assert chosen_entries(parse_narrowing(named), packaged) == [entry]
        assert entry in chosen_entries(parse_narrowing({"plugins": [entry.plugin], "profile": "access"}), packaged)
