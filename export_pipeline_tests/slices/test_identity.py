"""Who the person is: merged uids in both directions, device ids that join nobody, and filters on the person."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient

from export_pipeline.catalog.model import Identity
from export_pipeline.errors import BadInputError, ExportPipelineError
from export_pipeline.exporter import Exporter, Outcome
from export_pipeline.mongo.snapshot import SnapshotReader, choose_moment
from export_pipeline.packages.manifest import Users
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline.slices import identity as identity_module
from export_pipeline.slices.identity import NobodyFoundError, People, Person, TooManyPeopleError
from export_pipeline_tests.conftest import MakeDatabase

Client = MongoClient[dict[str, Any]]

IDENTITY = Identity(
    collection="app_users{app_id}",
    uid="uid",
    merged_uids="merged_uid",
    device_ids="did",
    search=("uid", "did", "email", "custom.*"),
)
LIMIT = timedelta(seconds=30)


def people_in(client: Client, database: str, identity: Identity = IDENTITY) -> People:
    """The people of app "x" as they are now."""
    name = (database, "app_usersx")
    moment = choose_moment(client, [name])
    return People(SnapshotReader(client, moment.cluster_time, LIMIT), identity, moment.collections[name])


def closed(people: People, *uids: str) -> Person:
    person = people.close({"r": uids})["r"]
    assert isinstance(person, Person)
    return person


# Merged uids

CHAIN: list[dict[str, Any]] = [
    {"uid": "c", "merged_uid": ["b"]},
    {"uid": "b", "merged_uid": ["a"]},
    {"uid": "z", "merged_uid": ["y"]},
]
STAR: list[dict[str, Any]] = [{"uid": "c", "merged_uid": ["a", "b"]}, {"uid": "z"}]
DAMAGED = bson.raw_bson.RawBSONDocument(
    bson.encode({"uid": "a", "merged_uid": ["QQ", "b"], "did": "QQ"}).replace(b"QQ", b"Q\xff")
)


@pytest.mark.parametrize("asked", ["a", "b", "c"])
@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(STAR, id="all merged into one"),
        pytest.param(CHAIN, id="chain"),
        pytest.param([{"uid": "b", "merged_uid": "a"}, {"uid": "c", "merged_uid": "b"}], id="single strings"),
        pytest.param([{"uid": "c", "merged_uid": ["b"]}, {"uid": "a", "merged_uid": ["b"]}], id="merged twice"),
        pytest.param([{"uid": n, "merged_uid": m} for n, m in ("ab", "bc", "ca", "aa")], id="circle"),
    ],
)
def test_the_person_is_found_whole_whichever_of_the_uids_is_asked_for(
    mongo_client: Client, make_database: MakeDatabase, stored: list[dict[str, Any]], asked: str
) -> None:
    people = people_in(mongo_client, make_database({"app_usersx": [dict(item) for item in stored]}).mongo_database)
    person = closed(people, asked)
    assert person.requested_uids == (asked,)
    assert sorted(person.merged_uids) == sorted({"a", "b", "c"} - {asked})


@pytest.mark.parametrize(
    ("stored", "merged"),
    [
        pytest.param([], set(), id="nobody"),
        pytest.param([{"uid": "b", "merged_uid": []}, {"uid": "a"}], set(), id="nothing merged"),
        pytest.param([{"uid": "A", "merged_uid": ["b"]}, {"uid": "a "}], set(), id="byte for byte"),
        pytest.param([{"uid": "a", "merged_uid": ["b", 7, None, "", {"uid": "c"}, ["d"]]}], {"b"}, id="no strings"),
        pytest.param([{"uid": 7, "merged_uid": ["a", "b"]}, {"uid": None, "merged_uid": "a"}], set(), id="no uid"),
        pytest.param([{"uid": "", "merged_uid": ["a", "b"]}, {"uid": "c", "merged_uid": [""]}], set(), id="empty uid"),
        pytest.param([DAMAGED], {"b"}, id="damaged text"),
    ],
)
def test_only_what_is_a_uid_joins(
    mongo_client: Client, make_database: MakeDatabase, stored: list[Any], merged: set[str]
) -> None:
    people = people_in(mongo_client, make_database({"app_usersx": stored}).mongo_database)
    person = closed(people, "a")
    assert set(person.merged_uids) == merged
    assert person.device_ids == ()
    assert Person.model_validate_json(person.model_dump_json()) == person


def test_a_collation_of_the_collection_joins_nobody(mongo_client: Client, make_database: MakeDatabase) -> None:
    database = make_database({}).mongo_database
    people = mongo_client[database].create_collection("app_usersx", collation={"locale": "en", "strength": 1})
    people.insert_many([{"uid": "A", "merged_uid": ["b"], "email": "ME"}, {"uid": "a", "email": "me"}])
    assert closed(people_in(mongo_client, database), "a").merged_uids == ()
    assert people_in(mongo_client, database).find({"email": "me"}, 1) == ("a",)


# Device ids


def test_device_ids_are_gathered_from_all_uids_and_join_nobody(
    mongo_client: Client, make_database: MakeDatabase
) -> None:
    stored = [
        {"uid": "a", "did": "shared", "merged_uid": ["b"]},
        {"uid": "b", "did": ["old", 7, None, ""]},
        {"uid": "stranger", "did": ["shared", "theirs"]},
    ]
    people = people_in(mongo_client, make_database({"app_usersx": stored}).mongo_database)
    assert closed(people, "b") == Person(requested_uids=("b",), merged_uids=("a",), device_ids=("old", "shared"))
    assert closed(people, "stranger").uids == ("stranger",)


def test_the_catalogue_need_not_name_merged_uids_or_device_ids(
    mongo_client: Client, make_database: MakeDatabase
) -> None:
    identity = Identity(collection="app_users{app_id}", uid="ids.now")
    at = make_database({"app_usersx": [{"ids": {"now": "a"}, "merged_uid": ["b"], "did": "d"}]})
    assert closed(people_in(mongo_client, at.mongo_database, identity), "a") == Person(requested_uids=("a",))


# Several requests


def test_the_requests_of_a_batch_are_closed_each_on_its_own(mongo_client: Client, make_database: MakeDatabase) -> None:
    stored = [*CHAIN, {"uid": "b", "did": "d1"}, {"uid": "y", "did": "d2"}]
    people = people_in(mongo_client, make_database({"app_usersx": [dict(item) for item in stored]}).mongo_database)
    persons = people.close({"r1": ["a"], "r2": ["y", "y"], "r3": ["c", "z"], "r4": ["nobody"]})
    assert persons == {
        "r1": Person(requested_uids=("a",), merged_uids=("b", "c"), device_ids=("d1",)),
        "r2": Person(requested_uids=("y",), merged_uids=("z",), device_ids=("d2",)),
        "r3": Person(requested_uids=("c", "z"), merged_uids=("y", "b", "a"), device_ids=("d1", "d2")),
        "r4": Person(requested_uids=("nobody",)),
    }


def test_too_many_merged_uids_are_taken_for_damage(
    mongo_client: Client, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_module, "MOST_MERGED", 2)
    stored = [{"uid": "a", "merged_uid": ["b", "c"]}, {"uid": "hub", "merged_uid": ["s1", "s2", "s3"]}]
    people = people_in(mongo_client, make_database({"app_usersx": stored}).mongo_database)
    persons = people.close({"r1": ["a"], "r2": ["s1"], "r3": ["s2", "s2"]})
    assert isinstance(persons["r1"], Person)
    for request_id in ("r2", "r3"):
        error = persons[request_id]
        assert isinstance(error, TooManyPeopleError)
        assert str(error).startswith("3 uids are merged with the 1 requested; more than 2 to a person")


# Against a reference

NAMES = st.sampled_from("abcdefgh")
MERGED = NAMES | st.lists(NAMES | st.sampled_from([1, None, "", ["a"]]), max_size=3)
PEOPLE = st.lists(
    st.fixed_dictionaries(
        {"uid": NAMES | st.sampled_from([7, None, ""])},
        optional={"merged_uid": MERGED, "did": st.sampled_from(["d1", "d2", "d3"])},
    ),
    max_size=9,
)


def components(stored: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    """The reference: sets of uids, joined as long as two share one."""
    joined: list[set[str]] = []
    for document in stored:
        if isinstance(document["uid"], str) and document["uid"]:
            merged = document.get("merged_uid", [])
            values = merged if isinstance(merged, list) else [merged]
            group = {document["uid"], *(value for value in values if isinstance(value, str) and value)}
            touching = [other for other in joined if other & group]
            joined = [other for other in joined if not other & group] + [group.union(*touching)]
    return joined


@settings(max_examples=60)
@given(PEOPLE, st.lists(st.lists(NAMES, min_size=1, max_size=2), min_size=1, max_size=4), st.integers(1, 3))
@example(CHAIN, [["a"], ["b"], ["c"], ["y"]], 1)
def test_the_closure_is_the_connected_component(
    mongo_client: Client, stored: list[dict[str, Any]], asked: list[list[str]], uids_per_query: int
) -> None:
    collection = mongo_client["test_identity"]["app_usersx"]
    collection.delete_many({})
    collection.insert_many([{"uid": 0}, *(dict(document) for document in stored)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity_module, "UIDS_PER_QUERY", uids_per_query)
        persons = people_in(mongo_client, "test_identity").close({str(n): uids for n, uids in enumerate(asked)})
    for number, uids in enumerate(asked):
        person = persons[str(number)]
        assert isinstance(person, Person)
        expected = set(uids).union(*(group for group in components(stored) if group & set(uids)))
        assert person.requested_uids == tuple(dict.fromkeys(uids))
        assert len(person.uids) == len(expected)
        assert set(person.uids) == expected
        devices = {document["did"] for document in stored if document["uid"] in expected and "did" in document}
        assert person.device_ids == tuple(sorted(devices))


# Filters on the person

FILTERED: list[dict[str, Any]] = [
    {"uid": "a", "did": "d1", "email": "me@example.org", "custom": {"plan": "pro", "number": 7}},
    {"uid": "b", "did": ["d1", "d2"], "email": "you@example.org", "custom": {"plan": "pro"}},
    {"uid": 7, "email": "nouid@example.org"},
    {"email": "nouid@example.org", "uid": "c"},
    {"uid": "", "email": "empty@example.org"},
]


@pytest.fixture
def filtered(mongo_client: Client, make_database: MakeDatabase) -> People:
    at = make_database({"app_usersx": [dict(document) for document in FILTERED]})
    return people_in(mongo_client, at.mongo_database)


@pytest.mark.parametrize(
    ("person", "uids"),
    [
        ({"uid": "a"}, ("a",)),
        ({"did": "d2"}, ("b",)),
        ({"did": "d1"}, ("a", "b")),
        ({"email": "me@example.org"}, ("a",)),
        ({"email": {"$in": ["me@example.org", "you@example.org"]}}, ("a", "b")),
        ({"custom.plan": "pro", "did": "d2"}, ("b",)),
        ({"custom.number": {"$numberLong": "7"}}, ("a",)),
    ],
)
def test_a_filter_finds_the_uids_of_whom_it_matches(
    filtered: People, person: dict[str, Any], uids: tuple[str, ...]
) -> None:
    assert filtered.find(person, len(uids)) == uids


@pytest.mark.parametrize(
    ("person", "error", "says"),
    [
        ({"email": "nobody@example.org"}, NobodyFoundError, "matches nobody in this app"),
        ({"email": "ME@example.org"}, NobodyFoundError, "matches nobody in this app"),
        ({"did": "d1"}, TooManyPeopleError, "matches 2 people, and the request allows 1"),
        ({"email": "nouid@example.org"}, TooManyPeopleError, "matches 2 people, and the request allows 1"),
        ({"email": "empty@example.org"}, NobodyFoundError, "of the 1 people that the filter matches, some have no uid"),
        ({}, BadInputError, "an empty filter would match everybody"),
        ({"email": None}, BadInputError, "null would match all people without the field"),
        ({"email": {"$in": ["me@example.org", None]}}, BadInputError, "null would match all people without the field"),
        ({"email": {"$ne": "me@example.org"}}, BadInputError, r"operator \$ne is not allowed"),
        ({"email": {"$gte": "me@example.org"}}, BadInputError, r"operator \$gte is not allowed"),
        ({"$where": "me@example.org"}, BadInputError, r"operator \$where is not allowed"),
        ({"name": "me@example.org"}, BadInputError, "one may by uid, did, email, custom"),
        ({"custom": {"plan": "pro"}}, BadInputError, "operator of that name is not allowed"),
        ({"customs.plan": "pro"}, BadInputError, "does not let one search by this field"),
        ("me@example.org", BadInputError, "expected an object"),
    ],
)
def test_a_filter_that_finds_nobody_too_many_or_is_not_allowed(
    filtered: People, person: Any, error: type[ExportPipelineError], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        filtered.find(person, 1)
    assert type(raised.value) is error
    assert "@" not in str(raised.value)


def test_a_person_without_a_uid_is_not_left_out_in_silence(filtered: People) -> None:
    with pytest.raises(NobodyFoundError, match="of the 2 people that the filter matches, some have no uid of their"):
        filtered.find({"email": "nouid@example.org"}, 2)


# A request, from its row to its file

CATALOG = """
version: 1
identity:
  collection: app_users{app_id}
  uid: uid
  merged_uids: merged_uid
  device_ids: did
  search: [uid, did, email, custom.*]
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid}
- {name: pings, plugin: pings, collection: "pings{app_id}", user_key: from.device, key_holds: device_id}
"""


@pytest.fixture
def installation(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Exporter]:
    """Ann, who was merged twice, Bob, who used her device, and people without devices."""
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    filled = make_database(
        {
            "app_usersx": [
                {"_id": 1, "uid": "ann", "merged_uid": ["ann-old"], "did": "d1", "email": "ann@example.org"},
                {"_id": 2, "uid": "ann-old", "merged_uid": "ann-oldest", "did": ["d2"]},
                {"_id": 3, "uid": "bob", "did": ["d1", "d3"], "email": "bob@example.org"},
                {"_id": 4, "uid": "cleo", "email": "cleo@example.org"},
            ],
            "eventsx": [
                {"_id": n, "uid": uid} for n, uid in enumerate(["ann", "ann-old", "ann-oldest", "bob", "cleo"])
            ],
            "pingsx": [
                {"_id": n, "from": {"device": device}} for n, device in enumerate(["d1", ["d2", "d1"], "d3", "ann"])
            ],
        }
    )
    with Exporter(filled.model_copy(update={"catalog": tmp_path / "catalog.yaml"})) as exporter:
        yield exporter


def in_one_batch(exporter: Exporter, *wanted: NewRequest) -> list[Outcome | None]:
    """How each request ends when all share a batch; None for one that could not be planned."""
    ids = [exporter.submit(new).id for new in wanted]
    batch = Batch(new_id(), tuple(ids))
    assert len(exporter.requests.claim(batch)) == len(ids)
    plan = exporter.plan(batch.id)
    for entry in exporter.catalog.entries:
        exporter.read_slice(plan, entry.name)
    outcomes = {outcome.request_id: outcome for outcome in exporter.package(plan)}
    return [outcomes.get(request_id) for request_id in ids]


def ids_in(exporter: Exporter, outcome: Outcome | None) -> dict[str, list[int]]:
    """The ids in a request's file, by collection."""
    assert outcome is not None
    assert outcome.error is None
    found: dict[str, list[int]] = {}
    row = exporter.requests.get(outcome.request_id)
    for document in json.loads(Path(str(row.result_uri)).read_bytes()):
        found.setdefault(document["_col"], []).append(document["_id"])
    return {collection: sorted(ids) for collection, ids in found.items()}


ANNS = {"app_usersx": [1, 2], "eventsx": [0, 1, 2], "pingsx": [0, 1]}


@pytest.mark.parametrize("asked", [{"email": "ann@example.org"}, {"did": "d2"}])
def test_a_request_by_person_is_handed_all_of_the_person(installation: Exporter, asked: dict[str, Any]) -> None:
    [outcome] = in_one_batch(installation, NewRequest("x", person=asked))
    assert ids_in(installation, outcome) == ANNS
    assert outcome is not None
    assert outcome.manifest is not None
    users = outcome.manifest.users
    assert sorted([*users.uids, *users.merged_uids]) == ["ann", "ann-old", "ann-oldest"]
    assert users.device_ids == ("d1", "d2")
    assert len(users.uids) == 1


def test_each_request_of_a_batch_is_handed_its_own_persons_data(installation: Exporter) -> None:
    ann, bob, both, cleo, unknown = in_one_batch(
        installation,
        NewRequest("x", ["ann-oldest"]),
        NewRequest("x", person={"email": "bob@example.org"}),
        NewRequest("x", person={"email": {"$in": ["ann@example.org", "cleo@example.org"]}}, max_users=2),
        NewRequest("x", ["cleo"]),
        NewRequest("x", ["unknown"]),
    )
    assert ids_in(installation, ann) == ANNS
    assert ids_in(installation, bob) == {"app_usersx": [3], "eventsx": [3], "pingsx": [0, 1, 2]}
    assert ids_in(installation, both) == {**ANNS, "app_usersx": [1, 2, 4], "eventsx": [0, 1, 2, 4]}
    assert ids_in(installation, cleo) == {"app_usersx": [4], "eventsx": [4]}
    assert ids_in(installation, unknown) == {}
    assert bob is not None
    assert bob.manifest is not None
    assert bob.manifest.users == Users(uids=("bob",), merged_uids=(), device_ids=("d1", "d3"))


def test_who_cannot_be_found_fails_alone_and_is_not_named(
    installation: Exporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(identity_module, "MOST_MERGED", 1)
    asked = [
        NewRequest("x", person={"email": "nobody@example.org"}),
        NewRequest("x", person={"did": "d1"}),
        NewRequest("x", ["ann"]),
        NewRequest("x", ["bob"]),
    ]
    *unplanned, bob = in_one_batch(installation, *asked)
    assert unplanned == [None, None, None]
    assert ids_in(installation, bob)["app_usersx"] == [3]
    rows = sorted(installation.requests.latest(), key=lambda row: row.id)
    assert [(row.status, row.error_code) for row in rows] == [
        ("failed", "nobody_found"),
        ("failed", "too_many_people"),
        ("failed", "too_many_people"),
        ("completed", None),
    ]
    said = caplog.text + "".join(f"{row.error_message} {row!r}" for row in rows)
    events = "".join(str(event) for row in rows for event in installation.requests.events(row.id))
    for secret in ("@example.org", "'ann", "d1'", '"d1'):
        assert secret not in said + events


def test_where_nobody_can_be_found_the_batch_fails_with_the_reason(installation: Exporter) -> None:
    request = installation.submit(NewRequest("x", person={"email": "nobody@example.org"}), run_here=True)
    with pytest.raises(NobodyFoundError, match="matches nobody"):
        installation.run_here(request)
    assert installation.requests.get(request.id).error_code == "nobody_found"


def test_an_app_without_people_is_exported_by_uid_and_not_by_person(installation: Exporter) -> None:
    installation.client[installation.settings.mongo_database]["app_usersx"].drop()
    by_person, by_uid = in_one_batch(
        installation, NewRequest("x", person={"email": "ann@example.org"}), NewRequest("x", ["ann"])
    )
    assert by_person is None
    assert ids_in(installation, by_uid) == {"eventsx": [0]}
    failed = min(installation.requests.latest(), key=lambda row: row.id)
    assert failed.error_code == "bad_input"
    assert "no collection of people to search" in str(failed.error_message)


def test_a_catalogue_without_an_identity_refuses_a_request_by_person(installation: Exporter) -> None:
    installation.catalog = installation.catalog.model_copy(update={"identity": None})
    with pytest.raises(BadInputError, match="the catalogue has no 'identity' to search"):
        installation.submit(NewRequest("x", person={"email": "ann@example.org"}))
    [outcome] = in_one_batch(installation, NewRequest("x", ["ann"]))
    assert ids_in(installation, outcome) == {"app_usersx": [1], "eventsx": [0]}


def test_damaged_text_among_a_persons_ids_does_not_stop_the_batch(installation: Exporter) -> None:
    people = installation.client[installation.settings.mongo_database]["app_usersx"]
    damaged = bson.encode({"_id": 9, "uid": "bob", "did": ["QQ"], "merged_uid": ["QQ"]}).replace(b"QQ", b"Q\xff")
    people.insert_one(bson.raw_bson.RawBSONDocument(damaged))
    bob, cleo = in_one_batch(installation, NewRequest("x", ["bob"]), NewRequest("x", ["cleo"]))
    assert ids_in(installation, cleo) == {"app_usersx": [4], "eventsx": [4]}
    assert bob is not None
    assert "not valid UTF-8" in str(bob.error), "no format can hold it, so his request says so"
