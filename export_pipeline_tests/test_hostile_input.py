"""What somebody who means harm may ask: each request is refused with its reason, or taken as plain data.

Refused is: BadInputError (exit code 2, one line), nothing written, and nothing of what was given in the message.
Data is: an export of exactly the documents that Python's ``==`` finds, and of nobody else's.
"""
# ruff: noqa: RUF001 - what looks alike is part of it

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import Binary, Code, Int64, ObjectId, Regex
from click.testing import CliRunner, Result
from pymongo import MongoClient

from export_pipeline.catalog.hooks import computed_selector
from export_pipeline.catalog.narrowing import parse_narrowing
from export_pipeline.cli import main
from export_pipeline.errors import BadInputError, CatalogError
from export_pipeline.exporter import Exporter
from export_pipeline.mongo.filters import parse_json
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import MOST_USERS, NewRequest
from export_pipeline.settings import Settings

DATABASE = "test_hostile_input"

CATALOG = """
version: 1
identity: {collection: "people{app_id}", uid: uid, merged_uids: merged, device_ids: did, search: [email, "custom.*"]}
collections:
- {name: people, plugin: users, collection: "people{app_id}", user_key: uid}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid, time_field: ts, time_unit: ms}
"""

HUSH = "hush-hush"
"""It stands in for data: no message may hold it."""

LONG = HUSH * 20_000


@dataclass(frozen=True)
class Case:
    """A request: the arguments of NewRequest that differ from a harmless one, and how its refusal begins."""

    id: str
    asks: Mapping[str, Any]
    reason: str = ""


# What is refused: operators

OPERATORS: dict[str, Any] = {
    # code
    "$where": f"this.uid != '{HUSH}' || sleep(1000)",
    "$function": {"body": f"function () {{ return '{HUSH}' }}", "args": [], "lang": "js"},
    "$accumulator": {"init": "function () {}", "accumulate": HUSH, "lang": "js"},
    "$expr": {"$eq": ["$uid", HUSH]},
    "$jsonSchema": {"required": [HUSH]},
    "$code": HUSH,
    "$scope": {HUSH: 1},
    "$eval": HUSH,
    # other ways to select
    "$or": [{"uid": {"$exists": True}}, {"uid": HUSH}],
    "$and": [{"uid": {"$ne": HUSH}}],
    "$nor": [{"uid": HUSH}],
    "$not": {"$eq": HUSH},
    "$regex": f".*|{HUSH}",
    "$options": "si",
    "$text": {"$search": HUSH},
    "$search": HUSH,
    "$near": [0, 0],
    "$nearSphere": [0, 0],
    "$geoWithin": {"$center": [[0, 0], 1e9]},
    "$geoIntersects": {"$geometry": {"type": "Point", "coordinates": [0, 0]}},
    "$elemMatch": {"$ne": HUSH},
    "$all": [HUSH],
    "$size": 0,
    "$type": "string",
    "$mod": [1, 0],
    "$bitsAllSet": 0,
    "$rand": {},
    "$sampleRate": 1.0,
    "$comment": HUSH,
    "$meta": "textScore",
    "$slice": 1,
    "$natural": 1,
    "$query": {"uid": {"$exists": True}},
    "$orderby": {HUSH: 1},
    "$alwaysTrue": 1,
    # stages and updates
    "$lookup": {"from": "people", "as": HUSH, "pipeline": []},
    "$unionWith": HUSH,
    "$out": HUSH,
    "$merge": {"into": HUSH},
    "$set": {"uid": HUSH},
    "$unset": {"uid": 1},
    "$currentOp": {"allUsers": True},
    # other types of extended JSON, and names that only look like operators
    "$regularExpression": {"pattern": HUSH, "options": "i"},
    "$binary": {"base64": "AAAA", "subType": "06"},
    "$symbol": HUSH,
    "$undefined": True,
    "$minKey": 1,
    "$maxKey": 1,
    "$timestamp": {"t": 1, "i": 1},
    "$ref": HUSH,
    "$uuid": HUSH,
    "$": HUSH,
    "$$ROOT": HUSH,
    f"${HUSH}": 1,
    "$EQ": HUSH,
    "＄where": HUSH,
}

PLACES = ("email", "note")


def wrapped(operator: str, argument: Any, field: str) -> dict[str, dict[str, Any]]:
    """An operator at each level of a filter."""
    return {
        "in place of a field": {operator: argument},
        "beside a field": {field: "x", operator: argument},
        "on a field": {field: {operator: argument}},
        "beside another": {field: {"$eq": "x", operator: argument}},
        "in $eq": {field: {"$eq": {operator: argument}}},
        "in $in": {field: {"$in": ["x", {operator: argument}]}},
    }


def in_filters(name: str, person: Any, where: Any, reason: str = "") -> Iterator[Case]:
    """The same as a filter on the person and as a condition."""
    yield Case(f"person: {name}", {"person": person}, reason)
    yield Case(f"where: {name}", {"narrowing": {"where": {"events": where}}}, reason)


def operators() -> Iterator[Case]:
    for operator, argument in OPERATORS.items():
        by_email, by_note = (wrapped(operator, argument, field) for field in PLACES)
        for level in by_email:
            # Without a dollar it is a field like any other at the top, though one that nobody may search.
            if operator.startswith("$") or "field" not in level.split(" on ")[0]:
                yield from in_filters(f"{operator} {level}", by_email[level], by_note[level])
    for operator in ("$ne", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists"):
        yield Case(f"person: {operator}, which selects whoever it does not name", {"person": {"email": {operator: ""}}})


# What is refused: paths

NO_PATHS = {
    "empty": "",
    "dot": ".",
    "ends with a dot": "note.",
    "begins with a dot": ".note",
    "empty part": "note..x",
    "operator": "$note",
    "operator inside": "note.$x",
    "positional": "note.$",
    "all positions": "note.$[]",
    "variable": "$$ROOT.note",
    "NUL": f"note\0{HUSH}",
    "only NUL": "\0",
    "newline": f"note\n{HUSH}",
    "right to left": f"\u202e{HUSH}",
    "byte order mark": "\ufeffnote",
    "half of a surrogate pair": f"{HUSH}\ud800",
    "too long": HUSH * 30,
    "huge": LONG,
    "deep": ".".join("n" * 150),
}


def paths() -> Iterator[Case]:
    for name, path in NO_PATHS.items():
        yield from in_filters(f"path, {name}", {path: "x"}, {path: "x"})
        yield Case(f"fields: {name}", {"narrowing": {"fields": {"events": ["note", path]}}}, "fields, events: ")
        yield Case(f"sort: {name}", {"narrowing": {"sort": {"events": ["note", path]}}}, "sort, events: ")
        yield Case(f"sort: -{name}", {"narrowing": {"sort": {"events": [f"-{path}"]}}}, "sort, events: ")
    for path in ("uid", "merged", "did", "custom", "custom.", "emailx", "email.x", "Email", "_id", f"secret.{HUSH}"):
        yield Case(f"person: {path}, which is not to be searched", {"person": {path: "x"}}, "person: ")


# What is refused: values

NO_VALUES: dict[str, Any] = {
    "list": [HUSH],
    "empty list": [],
    "list of lists": [[HUSH]],
    "empty object": {},
    "object": {"name": HUSH},
    "DBRef": {"$ref": HUSH, "$id": 1, "$db": "admin"},
    "code with scope": {"$code": HUSH, "$scope": {}},
    "$oid of nothing": {"$oid": None},
    "$oid of text": {"$oid": HUSH},
    "$oid with company": {"$oid": "0" * 24, "$where": HUSH},
    "$date of text": {"$date": HUSH},
    "$date of true": {"$date": True},
    "$date out of range": {"$date": {"$numberLong": "9" * 19}},
    "$numberInt of text": {"$numberInt": HUSH},
    "$numberInt that is too large": {"$numberInt": "9" * 40},
    "$numberLong that is too large": {"$numberLong": str(2**63)},
    "$numberDouble that is none": {"$numberDouble": "NaN"},
    "$numberDecimal of text": {"$numberDecimal": HUSH},
    "whole number of 65 bits": 2**63,
    "whole number of 400 digits": 10**400,
    "not a number": math.nan,
    "infinite": -math.inf,
    "text that is too long": LONG,
    "half of a surrogate pair": f"{HUSH}\udfff",
    "empty $in": {"$in": []},
    "$in of text": {"$in": HUSH},
    "$in of an object": {"$in": {"0": HUSH}},
    "$in of too many": {"$in": [HUSH] * 1001},
    "$eq of a list": {"$eq": [HUSH]},
    "$eq of $eq": {"$eq": {"$eq": HUSH}},
}

NO_FILTERS: dict[str, Any] = {
    "text": HUSH,
    "a number": 5,
    "true": True,
    "a list": [{"email": HUSH}],
    "too many fields": {f"{HUSH}{number}": 1 for number in range(51)},
    "a million fields": dict.fromkeys(map(str, range(10**6)), 1),
    "a number for a field": {7: HUSH},
}


def deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"email": HUSH}
    for _ in range(levels):
        found = {"email": found}
    return found


def values() -> Iterator[Case]:
    for name, value in NO_VALUES.items():
        yield from in_filters(f"value, {name}", {"email": value}, {"note": value})
    for name, given in NO_FILTERS.items():
        yield from in_filters(f"filter, {name}", given, given)
    for levels in (2, 100, 900, 100_000):
        yield from in_filters(f"{levels} deep", deep(levels), deep(levels))
    itself: dict[str, Any] = {}
    itself["email"] = itself
    yield from in_filters("holds itself", itself, itself)
    yield Case("person: of all", {"person": {}}, "person: an empty filter would match everybody")
    yield Case(
        "person: null for a value", {"person": {"email": None}}, "person: null would match all people without the field"
    )
    yield Case("person: null in $in", {"person": {"email": {"$in": ["x", None]}}}, "person: null would match")
    yield Case("person: and uids", {"person": {"email": HUSH}, "uids": [HUSH]}, "give either uids or a filter")
    large = {f"f{number}": {"$in": [HUSH * 400] * 1000} for number in range(5)}
    yield Case("where: more than a query takes", {"narrowing": {"where": {"events": large}}}, "where, events: all cond")


# What is refused: JSON text

TEXTS = {
    "nothing": "",
    "no JSON": HUSH,
    "cut short": f'{{"email": "{HUSH}"',
    "more after it": f'{{"email": "{HUSH}"}}; db.dropDatabase()',
    "two values": '{"email": 1} {"email": 2}',
    "Python": f"{{'email': '{HUSH}'}}",
    "JavaScript": f"{{email: /{HUSH}/}}",
    "a call": f'ObjectId("{HUSH}")',
    "a comment": '{"email": 1 /* */}',
    "a comma too many": '{"email": 1,}',
    "byte order mark": '\ufeff{"email": 1}',
    "newline in a string": f'{{"email": "{HUSH}\n"}}',
    "bad escape": '{"email": "\\x41"}',
    "surrogate escape": '{"email": "\\ud800"}',
    "NaN": '{"email": NaN}',
    "Infinity": '{"email": -Infinity}',
    "1e400": '{"email": 1e400}',
    "5,000 digits": f'{{"email": {"9" * 5000}}}',
    "4,000 digits": f'{{"email": {"9" * 4000}}}',
    "a field twice": f'{{"email": "x", "email": "{HUSH}"}}',
    "an operator twice": f'{{"email": {{"$eq": "x", "$eq": "{HUSH}"}}}}',
    "100,000 objects deep": '{"email":' * 100_000 + "1" + "}" * 100_000,
    "100,000 lists deep": "[" * 100_000,
    "900 objects deep": '{"email":' * 900 + "1" + "}" * 900,
    "a million values": '{"email": {"$in": [' + "1," * 10**6 + "1]}}",
    "a million fields": "{" + ",".join(f'"{number}":1' for number in range(10**6)) + "}",
    "false": "false",
    "a list": f'[{{"email": "{HUSH}"}}]',
    "text": f'"{HUSH}"',
}


def texts() -> Iterator[Case]:
    for name, text in TEXTS.items():
        yield Case(f"--person: {name}", {"person_text": text}, "")
        yield Case(f"--where: {name}", {"where_text": text}, "")
    yield Case("--person: null", {"person_text": "null"}, "")


# What is refused: ids

NO_UIDS: dict[str, Any] = {
    "none": [],
    "nothing": None,
    "text": HUSH,
    "bytes": HUSH.encode(),
    "a number": 7,
    "an operator": {"$ne": HUSH},
    "a set": {HUSH},
    "empty": [""],
    "513 characters": ["x" * 513],
    "huge": [LONG],
    "half of a surrogate pair": [f"{HUSH}\ud83d"],
    "the other half": [f"\ude00{HUSH}"],
    "what is not UTF-8 on a command line": [f"{HUSH}\udcff"],
    "one of many is empty": [HUSH, "x", ""],
    "too many": [HUSH] * (MOST_USERS + 1),
    **{
        f"with {type(value).__name__} {value!s:.12}": ["x", value]
        for value in (None, 7, 0.5, True, b"hush-hush", ["x"], {"$ne": None}, {"$gt": HUSH}, {"uid": HUSH}, math.nan)
    },
    "with a regular expression": [Regex(f".*|{HUSH}")],
    "with code": [7, Code(HUSH)],
    "with an ObjectId": [ObjectId()],
}

NO_APPS: dict[str, Any] = {
    **{
        ascii(app): app for app in ("", ".", "..", "../x", "x/..", "x/y", "/etc", "x\\y", "x.y", "~", " x", "x ", "x y")
    },
    **{ascii(app): app for app in ("$x", "x$", "x$where", "x*", "x?", "x:y", "x;y", "x'--", 'x"', "x`id`", "x%00")},
    **{ascii(app): app for app in ("\0", "x\0", "x\n", "\nx", "x\t", "x\r\nx", "x\u202ey", "x\u200b", "\ud800")},
    **{ascii(app): app for app in ("é", "x²", "①", "٣", "１２", "ｘ", "Ａ", "{app_id}")},
    "65 characters": "x" * 65,
    "huge": LONG,
    "a path": f"../../{HUSH}",
    "system": "system.users",
    "nothing": None,
    "a number": 7,
    "true": True,
    "a list": ["x"],
    "an operator": {"$ne": HUSH},
    "bytes": b"x",
}

UNKNOWN_APPS = ("-", "_", "--", "-rf", "__proto__", "constructor", "null", "0", "X", "x" * 30, "xx")
"""They could be apps; here they are none."""


def ids() -> Iterator[Case]:
    for name, uids in NO_UIDS.items():
        yield Case(f"uids: {name}", {"uids": uids}, "uids: ")
    for name, app in NO_APPS.items():
        yield Case(f"app: {name}", {"app_id": app}, "app id: expected 1 to 64 letters, digits, '_' or '-'")
    for app in UNKNOWN_APPS:
        yield Case(f"unknown app: {app}", {"app_id": app}, "no collection of the catalogue exists for app ")


# What is refused: the rest

NO_NAMES = {
    "other": HUSH,
    "case": "Events",
    "path": f"../{HUSH}",
    "operator": "$where",
    "empty": "",
    "NUL": "events\0",
    "space": "events ",
    "huge": LONG,
    "right to left": "\u202eevents",
    "the database's": "eventsx",
    "all": "*",
}

NO_MOMENTS = {
    "yesterday": "yesterday",
    "empty": "",
    "number": "20260131",
    "seconds": "1769817600",
    "word": HUSH,
    "no day": "2026-02-30",
    "operator": '{"$gt": 0}',
    "code": f"2026-01-01'; {HUSH}",
    "huge": LONG,
    "NUL": "2026-01-01\0",
    "far": "99999-01-01",
    "negative": "-001-01-01",
    "infinite": "inf",
}

NO_FORMATS: dict[str, Any] = {
    "doc": "doc",
    "case": "JSON",
    "empty": "",
    "path": f"../{HUSH}",
    "newline": "json\n",
    "NUL": "json\0",
    "space": " json",
    "data": f"{HUSH}@example.org",
    "card": "4111 1111 1111 1111",
    "huge": LONG,
    "nothing": None,
    "number": 7,
    "operator": {"$ne": HUSH},
    "list": ["json"],
}

NO_NUMBERS: dict[str, Any] = {
    "zero": 0,
    "negative": -1,
    "huge": 10**400,
    "true": True,
    "float": 1.0,
    "text": "1",
    "list": [1],
    "not a number": math.nan,
}


def rest() -> Iterator[Case]:
    for field in (
        "collections",
        "exclude_collections",
        "plugins",
        "exclude_plugins",
        "categories",
        "exclude_categories",
    ):
        for name, given in NO_NAMES.items():
            yield Case(f"{field}: {name}", {"narrowing": {field: ["events", given]}}, field.removeprefix("exclude_"))
    for name, given in NO_NAMES.items():
        yield Case(
            f"where: collection, {name}", {"narrowing": {"where": {given: {"note": 1}}}}, "where: 1 of the names"
        )
        yield Case(
            f"fields: collection, {name}", {"narrowing": {"fields": {given: ["note"]}}}, "fields: 1 of the names"
        )
        yield Case(f"sort: collection, {name}", {"narrowing": {"sort": {given: ["note"]}}}, "sort: 1 of the names")
    for field in ("since", "until"):
        for name, given in NO_MOMENTS.items():
            yield Case(f"{field}: {name}", {"narrowing": {field: given}}, f"{field}: ")
    for name, given in NO_FORMATS.items():
        yield Case(f"format: {name}", {"format": given}, "format: ")
        yield Case(f"json mode: {name}", {"json_mode": given}, "json mode: ")
    for name, given in NO_NUMBERS.items():
        yield Case(f"max users: {name}", {"person": {"email": "x"}, "max_users": given}, "max users: expected a whole")
        yield Case(f"limit: {name}", {"narrowing": {"limit": given}}, "limit: ")
    no_narrowings: dict[str, Any] = {"other": {HUSH: 1}, "code": {"$where": HUSH}, "text": HUSH, "nothing": None}
    for name, given in no_narrowings.items():
        yield Case(f"narrowing: {name}", {"narrowing": given}, "selection: ")
    yield Case("fields: a million", {"narrowing": {"fields": {"events": [HUSH] * 10**6}}}, "fields, events: name 1 to")
    yield Case("sort: a thousand", {"narrowing": {"sort": {"events": [HUSH] * 1000}}}, "sort, events: name at most")
    yield Case("profile", {"narrowing": {"profile": HUSH}}, "profile: ")
    yield Case("profile, empty", {"narrowing": {"profile": ""}}, "profile: ")


REFUSED = [*operators(), *paths(), *values(), *texts(), *ids(), *rest()]

# What is data

STRINGS = {
    # operators and code
    **{text: text for text in ("$ne", "$where", "$gt", "$", "$$ROOT", "$uid", "uid", "null", "true", "0", "NaN")},
    "object": '{"$ne": null}',
    "list": '["a", {"$gt": ""}]',
    "code": "function () { return true }",
    "script": "';return true;var a='",
    "regular expression": ".*",
    "another": "/.*/i",
    "SQL": "' OR 1=1; DROP TABLE export_requests; --",
    "shell": "$(id); `id` | rm -rf / && echo",
    "template": "{app_id} %s {0} ${HOME} {{7*7}}",
    "JNDI": "${jndi:ldap://127.0.0.1/a}",
    # quotes and ends
    "double quote": 'a"b',
    "single quote": "a'b",
    "backslash": "a\\",
    "backslash and quote": '\\"',
    "end of JSON": '"}]',
    "the tag": '{"_col":"peoplex"}',
    "newlines": "a\nb\r\nc",
    "line separators": "a\u2028b\u2029c\x85d",
    "end of a JSON line": '"}\n{"_col":"peoplex","_id":1}',
    "tab": "\t",
    "space": " ",
    "spaces around": " a ",
    "NUL": "\0",
    "ends with NUL": "a\0",
    "NUL inside": "a\0b",
    "escape": "\x1b[2J",
    "delete": "\x7f",
    # paths
    "parent": "..",
    "climbing": "../../../../etc/passwd",
    "root": "/etc/passwd",
    "Windows": "..\\..\\boot.ini",
    "URL": "file:///etc/passwd",
    "percent": "%2e%2e%2f",
    "manifest": "manifest.json",
    # what looks alike
    "a": "a",
    "A": "A",
    "a and space": "a ",
    "Cyrillic a": "а",
    "wide a": "ａ",
    "a with zero width": "a\u200b",
    "byte order mark": "\ufeffa",
    "composed": "é",
    "decomposed": "e\u0301",
    "dotless": "ı",
    "sharp s": "ß",
    "two s": "ss",
    "ligature": "ﬁ",
    "Arabic digits": "٣",
    "one": "1",
    "one with zeros": "01",
    "one point": "1.0",
    "exponent": "1e0",
    # scripts
    "right to left": "\u202eabc",
    "Hebrew": "שלום",
    "emoji": "👩‍👩‍👧",
    "astral": "\U0010ffff",
    "not a character": "\uffff",
    "private": "\ue000",
    "marks": "Z͑ͫ̓",
    # lengths
    "512 letters": "x" * 512,
    "512 emoji": "😀" * 512,
    "512 quotes": '"' * 512,
    "512 NULs": "\0" * 512,
    "looks like an ObjectId": "0123456789abcdef01234567",
    "looks like a date": "2026-01-31T00:00:00Z",
    "looks like extended JSON": '{"$oid": "0123456789abcdef01234567"}',
    "option": "--app",
    "dash": "-",
}

ODD_UIDS: list[Any] = [
    *(None, 0, 1, Int64(1), 1.0, True, math.nan),
    *({"$ne": None}, {"uid": "a"}, {}, [], [1], [None]),
    *(Regex(".*"), Code("a"), Binary(b"a"), ObjectId("0123456789abcdef01234567"), datetime(2026, 1, 31, tzinfo=UTC)),
]
"""Nobody's: a uid is a string."""

FIELDS = (
    "__proto__",
    "constructor",
    "a b",
    "a'b",
    'a"b',
    "a;b",
    "{app_id}",
    "<script>",
    "日本",
    "0",
    "*",
    "a$b",
    "-a",
    "_col",
)
"""Names that are odd, and names all the same."""

DATA = [
    *(Case(f"uid: {name}", {"uids": [text]}) for name, text in STRINGS.items()),
    *(Case(f"person: {name}", {"person": {"email": text}}) for name, text in STRINGS.items()),
    *(Case(f"where: {name}", {"narrowing": {"where": {"events": {"note": text}}}}) for name, text in STRINGS.items()),
    *(Case(f"field: {name}", {"narrowing": {"where": {"events": {name: "v"}}}}) for name in FIELDS),
]

CASES = [*REFUSED, *DATA]


def test_there_are_enough_of_them_and_each_once() -> None:
    assert len(CASES) >= 200
    assert len(REFUSED) >= 200
    assert len({case.id for case in CASES}) == len(CASES)
    assert len(set(STRINGS.values())) == len(STRINGS)


# The installation

READER = "reader"


def stored() -> dict[str, list[dict[str, Any]]]:
    """Each string is somebody's uid and e-mail address, and a note of READER's."""
    notes: list[dict[str, Any]] = [{"uid": READER, "note": text} for text in STRINGS.values()]
    events = [*notes, *({"uid": READER, "note": odd} for odd in ODD_UIDS), {"uid": READER}]
    events += [{"uid": text, "note": text} for text in STRINGS.values()]
    events += [{"uid": odd, "note": "a"} for odd in ODD_UIDS]
    events += [{"uid": uid, name: "v"} for name in FIELDS for uid in (READER, "a")]
    people = [{"uid": text, "email": text} for text in STRINGS.values()]
    people += [{"uid": READER}, *({"uid": odd, "email": odd} for odd in ODD_UIDS)]
    return {
        name: [{"_id": number, **document} for number, document in enumerate(documents)]
        for name, documents in {"peoplex": people, "eventsx": events}.items()
    }


STORED = stored()


@pytest.fixture(scope="module")
def database(mongo_client: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """The name of a database with one app in it; nothing here may change it."""
    mongo_client.drop_database(DATABASE)
    for name, documents in STORED.items():
        mongo_client[DATABASE][name].insert_many(documents)
    before = mongo_client[DATABASE].command("dbHash")["collections"]
    yield DATABASE
    assert mongo_client[DATABASE].command("dbHash")["collections"] == before
    mongo_client.drop_database(DATABASE)


@pytest.fixture(scope="module")
def installation(mongo_uri: str, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """The library on that database."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "catalog.yaml").write_text(CATALOG)
    settings = Settings(
        home=folder / "home", mongo_uri=mongo_uri, mongo_database=database, catalog=folder / "catalog.yaml"
    )
    with Exporter(settings) as opened:
        yield opened


@pytest.fixture
def run(installation: Exporter, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command line on it."""
    settings = installation.settings
    monkeypatch.setenv("DAGSTER_HOME", str(settings.home))
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_URI", settings.mongo_uri.get_secret_value())
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_DATABASE", settings.mongo_database)
    monkeypatch.setenv("EXPORT_PIPELINE_CATALOG", str(settings.catalog))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    return invoke


def requested(asks: Mapping[str, Any]) -> NewRequest:
    """The request of a case; where it says nothing, a harmless one."""
    asks = {"app_id": "x", **asks}
    narrowing = asks.pop("narrowing", {})
    if "person_text" in asks:
        asks["person"] = parse_json(asks.pop("person_text"), "--person")
    if "where_text" in asks:
        narrowing = {"where": {"events": parse_json(asks.pop("where_text"), "--where")}}
    if "person" not in asks and "uids" not in asks:
        asks["uids"] = [READER]
    return NewRequest(**asks, narrowing=parse_narrowing(narrowing))


def given(value: Any, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """All text in what was given that is long, or does not look like a name."""
    if isinstance(value, str):
        if len(value) > 3 and not re.fullmatch(r"[A-Za-z0-9_$.-]{1,30}", value.strip()):
            yield value
    elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen and len(seen) < 50:
        parts = [*value.keys(), *value.values()] if isinstance(value, Mapping) else [*value]
        for part in parts[:100]:
            yield from given(part, seen | {id(value)})


def assert_tells_nothing(message: str, case: Case) -> None:
    assert HUSH not in message
    assert len(message) < 500
    assert message.isprintable(), "one line, without control characters"
    assert not [text for text in given(case.asks) if text in message]


# Each is refused


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id.encode("ascii", "backslashreplace").decode()[:60])
def test_it_is_refused_with_its_reason_and_without_what_was_given(installation: Exporter, case: Case) -> None:
    with pytest.raises(BadInputError) as raised:
        installation.estimate(requested(case.asks))
    assert str(raised.value).startswith(case.reason)
    assert_tells_nothing(str(raised.value), case)
    assert raised.value.__cause__ is None


def as_arguments(case: Case) -> list[str] | None:
    """The command line that asks for the same; None where there is none."""
    asks = {"app_id": "x", **case.asks}
    narrowing = asks.pop("narrowing", {})
    arguments = []
    if not isinstance(narrowing, dict) or not narrowing.keys() <= {"since", "until", "where", "fields", "sort", *LISTS}:
        return None
    for name, value in narrowing.items():
        flag = f"--{name.replace('_', '-')}"
        if name in ("since", "until"):
            arguments.append(f"{flag}={value}")
        elif name in LISTS:
            singular = flag.replace("categories", "category").removesuffix("s")
            arguments += [f"{singular}={item}" for item in value]
        else:
            for collection, part in value.items():
                text = as_json(part) if name == "where" else ",".join(part)
                if text is None:
                    return None
                arguments.append(f"{flag}={collection}={text}")
    flags = {"app_id": "--app", "format": "--format", "json_mode": "--json-mode", "max_users": "--max-users"}
    for name, value in asks.items():
        if name in flags:
            if type(value) is not (int if name == "max_users" else str):
                return None
            arguments.append(f"{flags[name]}={value}")
        elif name == "uids":
            if not isinstance(value, list) or not all(isinstance(uid, str) for uid in value) or len(value) > 100:
                return None
            arguments += [f"--uid={uid}" for uid in value]
        elif name == "person_text":
            arguments.append(f"--person={value}")
        elif name == "where_text":
            arguments.append(f"--where=events={value}")
        else:
            person = as_json(value)
            if person is None:
                return None
            arguments.append(f"--person={person}")
    if not {"uids", "person", "person_text"} & asks.keys():
        arguments.append(f"--uid={READER}")
    return arguments


LISTS = ("collections", "exclude_collections", "plugins", "exclude_plugins", "categories", "exclude_categories")


def as_json(value: Any) -> str | None:
    if isinstance(value, dict) and 7 in value:
        return None  # JSON would make it text
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return None


COMMANDS = [(case, arguments) for case in REFUSED if (arguments := as_arguments(case)) is not None]


def test_most_of_them_can_be_tried_on_the_command_line() -> None:
    assert len(COMMANDS) >= 200


@pytest.mark.parametrize("family", sorted({case.id.partition(":")[0] for case, _ in COMMANDS}))
def test_the_command_line_refuses_it_in_one_line_and_writes_nothing(
    run: Any, installation: Exporter, tmp_path: Path, family: str
) -> None:
    before = {row.id for row in installation.requests.latest(10_000)}
    for case, arguments in COMMANDS:
        if case.id.partition(":")[0] == family:
            result = run("export", *arguments, f"--output={tmp_path / 'me.json'}")
            assert result.exit_code == 2, f"{case.id}: {result.output[:500]}"
            assert isinstance(result.exception, SystemExit), case.id
            assert result.stdout == "", case.id
            assert re.fullmatch(r"error: [^\n]+\n", result.stderr), f"{case.id}: {result.stderr[:500]}"
            assert_tells_nothing(result.stderr.removesuffix("\n"), case)
    assert list(tmp_path.iterdir()) == []
    rows = [row for row in installation.requests.latest(10_000) if row.id not in before]
    # Only what has to be looked up in the database got as far as a row.
    assert {row.error_code for row in rows} <= ({"unknown_app"} if family == "unknown app" else set())


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "", "9" * 5000, "1e3", "٣٣٣x", "true"])
@pytest.mark.parametrize("option", ["--limit", "--max-users"])
def test_a_number_that_is_none_is_bad_usage(run: Any, tmp_path: Path, option: str, number: str) -> None:
    output = tmp_path / "me.json"
    result = run("export", "--app=x", '--person={"email": "a"}', f"{option}={number}", f"--output={output}")
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert not output.exists()


EXPORT_IDS = [
    *(
        "",
        " ",
        ".",
        "..",
        "../../etc/passwd",
        "' OR '1'='1",
        '" OR ""="',
        "%",
        "_",
        "*",
        "null",
        "0",
        "{}",
        '{"$ne": ""}',
    ),
    *("a\0b", "\ud800", "\udcff", "é", "٣", "x" * 10**6, "019a0000-0000-7000-8000-000000000000", "\n", "--json "),
]


@pytest.mark.parametrize("command", ["status", "download"])
def test_an_export_id_opens_nothing_but_its_own_export(
    run: Any, installation: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    installation.run_here(installation.submit(NewRequest("x", [READER]), run_here=True))
    for export_id in EXPORT_IDS:
        if command == "status" and not export_id:
            continue  # lists the latest, as without an id
        result = run(command, "--", export_id)
        assert (result.exit_code, result.stdout) == (2, ""), ascii(export_id)[:80]
        assert re.fullmatch(r"error: no request has this Export ID[^\n]*\n", result.stderr), ascii(export_id)[:80]
    assert list(tmp_path.iterdir()) == []


# What hooks return

RETURNED: Any = None


def hook(uids: list[str], app_id: str) -> Any:
    """What the catalogue's author wrote; here, what RETURNED says."""
    return RETURNED


HOOK = f"{__name__}:hook"

HOOKS = {
    **{f"{operator} {level}": given for operator, argument in OPERATORS.items()
       for level, given in wrapped(operator, argument, "phone").items() if operator.startswith("$")},
    **{f"value, {name}": {"phone": value} for name, value in NO_VALUES.items()},
    **{f"path, {name}": {path: "x"} for name, path in NO_PATHS.items()},
    **{f"filter, {name}": given for name, given in NO_FILTERS.items()},
    "nothing": None,
    "everybody": {},
    "null": {"phone": None},
    "null in $in": {"phone": {"$in": ["x", None]}},
    "all but one": {"phone": {"$ne": HUSH}},
    "all but some": {"phone": {"$nin": [HUSH]}},
    "all with it": {"phone": {"$exists": True}},
    "all above": {"phone": {"$gt": ""}},
    "null and all with it": {"phone": None, "uid": {"$exists": True}},
}  # fmt: skip


@pytest.mark.parametrize("name", HOOKS, ids=lambda name: ascii(name)[1:60])
def test_a_hooks_result_is_checked_like_any_filter(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(globals(), "RETURNED", HOOKS[name])
    with pytest.raises(CatalogError) as raised:
        computed_selector(HOOK, ["a"], "x")
    assert str(raised.value).startswith(f"the hook {HOOK}")
    assert_tells_nothing(str(raised.value), Case(name, {"returned": HOOKS[name]}))
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", STRINGS)
def test_text_that_a_hook_returns_is_data(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(globals(), "RETURNED", {"phone": {"$in": [STRINGS[name]]}, "n": {"$gt": 1}})
    assert computed_selector(HOOK, ["a"], "x") == {"phone": {"$in": [STRINGS[name]]}, "n": {"$gt": 1}}


# What is data finds what == finds


def held(case: Case) -> dict[str, list[int]]:
    """By collection, the ids of the documents that a case's export must hold."""
    (uid,) = case.asks.get("uids") or [case.asks.get("person", {}).get("email", READER)]
    conditions = case.asks.get("narrowing", {}).get("where", {}).get("events", {})

    def is_held(document: Mapping[str, Any], also: Mapping[str, str]) -> bool:
        wanted = {"uid": uid, **also}
        return all(type(document.get(key)) is str and document[key] == value for key, value in wanted.items())

    return {
        name: [document["_id"] for document in STORED[name] if is_held(document, also)]
        for name, also in {"peoplex": {}, "eventsx": conditions}.items()
    }


def in_file(file: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"peoplex": [], "eventsx": []}
    for document in json.loads(file.read_bytes()):
        found[document["_col"]].append(document["_id"])
    return {name: sorted(ids) for name, ids in found.items()}


ALONE = [case for case in DATA if not case.id.startswith("person: ")]
"""Those are all in the batch below."""


@pytest.mark.parametrize("case", ALONE, ids=lambda case: ascii(case.id)[1:-1])
def test_it_is_data_and_finds_what_is_equal_to_it(installation: Exporter, tmp_path: Path, case: Case) -> None:
    request = installation.submit(requested(case.asks), run_here=True)
    manifest = installation.run_here(request, tmp_path / "me.json")
    expected = held(case)
    assert sum(map(len, expected.values())) >= 1
    assert in_file(tmp_path / "me.json") == expected
    assert manifest.users.merged_uids == manifest.users.device_ids == ()


def test_all_of_them_in_one_batch_are_told_apart(installation: Exporter) -> None:
    cases = [case for case in DATA if case.id.startswith(("uid: ", "person: "))]
    rows = {installation.submit(requested(case.asks)).id: case for case in cases}
    batch = Batch(new_id(), tuple(rows))
    installation.requests.claim(batch)
    plan = installation.plan(batch.id)
    for entry in installation.catalog.entries:
        installation.read_slice(plan, entry.name)
    outcomes = list(installation.package(plan))
    assert len(outcomes) == len(cases)
    for outcome in outcomes:
        assert outcome.error is None
        file = Path(str(installation.requests.get(outcome.request_id).result_uri))
        assert in_file(file) == held(rows[outcome.request_id]), rows[outcome.request_id].id
    installation.discard_slices(batch.id)


@pytest.mark.parametrize(
    "name", ["$ne", "SQL", "end of a JSON line", "climbing", "512 emoji", "option", "NUL inside", "escape"]
)
@pytest.mark.parametrize("by", ["uid", "person"])
def test_the_command_line_takes_it_as_data_too(run: Any, tmp_path: Path, name: str, by: str) -> None:
    text = STRINGS[name]
    who = f"--uid={text}" if by == "uid" else f"--person={json.dumps({'email': text})}"
    result = run("export", "--app=x", who, f"--output={tmp_path / 'me.json'}", "--json")
    assert result.exit_code == 0, result.output
    assert in_file(tmp_path / "me.json") == held(Case(name, {"uids": [text]}))
    assert json.loads(result.stdout)["users"]["uids"] == [text]
