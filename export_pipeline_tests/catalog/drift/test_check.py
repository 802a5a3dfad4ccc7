"""Drift between a catalogue and a database: what is found, what is not, within which budget, and without whose name."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient

from export_pipeline.catalog.drift.check import Budget, DriftReport, Finding, check_drift, known_apps
from export_pipeline.catalog.drift.findings import fields_seen, new_fields
from export_pipeline.catalog.drift.live_collections import Claims, apps_among
from export_pipeline.catalog.drift.sampled_fields import Field, Uids, fields_with_uids, without_keys
from export_pipeline.catalog.drift.sampling import Source
from export_pipeline.catalog.load import load_catalog, parse_catalog
from export_pipeline.catalog.model import LoadedCatalog
from export_pipeline.demo.data import DemoData
from export_pipeline.errors import MongoUnreachableError
from export_pipeline.mongo.connection import connect
from export_pipeline.settings import Settings
from export_pipeline_tests.conftest import DEMO_DATABASE, MakeDatabase
from export_pipeline_tests.mongo.faults import Sent, failing

Client = MongoClient[dict[str, Any]]

APP = "652f1a7e9c3b4d0012ab34aa"
OTHER_APP = "652f1a7e9c3b4d0012ab34bb"
UIDS = [f"u{number}x" for number in range(30)]
PEOPLE = [{"uid": uid, "did": f"device-{uid}", "name": "Ada"} for uid in UIDS]

USERS = "- {name: users, plugin: users, collection: 'app_users{app_id}', user_key: uid}"
NOTES = "- {name: notes, plugin: notes, collection: 'notes{app_id}', user_key: author.uid}"


def catalog_of(*entries: str) -> LoadedCatalog:
    text = "version: 1\ncollections:\n" + "".join(f"  {entry}\n" for entry in entries)
    return parse_catalog(text.encode(), Path("mine.yaml"))


def without(name: str) -> LoadedCatalog:
    """The packaged catalogue without one of its entries."""
    catalog = load_catalog()
    return catalog.model_copy(update={"entries": tuple(entry for entry in catalog.entries if entry.name != name)})


def notes(uids: list[str] = UIDS, **more: Any) -> list[dict[str, Any]]:
    return [{"author": {"uid": uid}, "text": "hello", **more} for uid in uids]


@pytest.fixture(scope="module")
def client(mongo_uri: str) -> Iterator[Client]:
    """A client as the project has it."""
    with connect(mongo_uri) as client:
        yield client


@pytest.fixture
def demo_settings(settings: Settings, demo: DemoData) -> Settings:
    """Settings for the demo's data."""
    return settings.model_copy(update={"mongo_database": DEMO_DATABASE})


def check(client: Client, settings: Settings, *entries: str, **how: Any) -> DriftReport:
    """A first check with a catalogue of these entries."""
    return check_drift(client, settings, catalog_of(*entries), {}, **how)[0]


def brief(report: DriftReport) -> list[tuple[str, str | None, str, str | None]]:
    return [(finding.kind, finding.app_id, finding.collection, finding.field) for finding in report.findings]


# The demo


def test_the_demo_and_the_packaged_catalogue_have_not_drifted_apart(
    client: Client, demo_settings: Settings, demo: DemoData
) -> None:
    seen: dict[str, list[str]] = {}
    for _ in range(2):
        report, seen = check_drift(client, demo_settings, load_catalog(), seen)
        assert report.findings == ()
        assert report.complete
        assert (report.apps, report.skipped) == (2, 0)
        assert report.collections >= 2 * len(load_catalog().entries)
        assert report.documents <= report.budget.documents
    assert seen.keys() == {entry.name for entry in load_catalog().entries}
    assert known_apps(client, demo_settings, load_catalog()) == sorted(demo.app_ids)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("users", "uid"),
        ("feedback", "uid"),
        ("push", "_id"),
        ("user_views", "_id"),
        ("surveys", "respondent.uid"),
        ("campaigns", "uids"),
    ],
)
def test_a_collection_that_lost_its_entry_is_found_in_each_app(
    client: Client, demo_settings: Settings, demo: DemoData, name: str, field: str
) -> None:
    report, _ = check_drift(client, demo_settings, without(name), {})
    collection = load_catalog().entry(name).collection
    assert brief(report) == [("unclaimed_collection", app_id, collection, field) for app_id in sorted(demo.app_ids)]


def test_only_the_named_apps_are_looked_at(client: Client, demo_settings: Settings, demo: DemoData) -> None:
    report, _ = check_drift(client, demo_settings, without("nps"), {}, apps=[demo.app_ids[1]])
    assert [finding.app_id for finding in report.findings] == [demo.app_ids[1]]
    assert report.apps == 1


# Collections that no entry claims


def test_the_suggested_entry_can_be_added_as_it_stands(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    settings = make_database({f"app_users{APP}": PEOPLE, f"userNotes_{APP}": notes()})
    [finding] = check(client, settings, USERS).findings
    entry = finding.detail[finding.detail.index("- {") :]
    assert yaml.safe_load(entry) == [
        {"name": "user_notes", "plugin": "user_notes", "collection": "userNotes_{app_id}", "user_key": "author.uid"}
    ]
    assert check(client, settings, USERS, entry).findings == ()


def test_two_samples_of_many_people_need_not_meet(client: Client, make_database: MakeDatabase) -> None:
    uids = [f"p{number:x}" for number in range(20_000)]
    database = {f"app_users{APP}": [{"uid": uid} for uid in uids], f"notes{APP}": notes(uids[::7])}
    report = check(client, make_database(database), USERS, budget=Budget(documents=40))
    assert brief(report) == [("unclaimed_collection", APP, "notes{app_id}", "author.uid")]
    assert report.documents <= 40


@pytest.mark.parametrize(
    ("documents", "field"),
    [
        ([{"visits": [{"who": {"id": uid}}]} for uid in UIDS], "visits.who.id"),
        ([{"day": 1, "visitors": dict.fromkeys(UIDS, 1)}], "visitors.*"),
        ([{"_id": f"2026-{number}", uid: {"seen": True}} for number, uid in enumerate(UIDS)], "*"),
        ([{"by_day": {f"2026-11-{day:02}": {"uid": UIDS[day]} for day in range(1, 20)}}], "by_day.*.uid"),
        ([{"uid": UIDS[0]}], "uid"),
        ([{"person": UIDS[-1]}], None),
        ([{"people": [*UIDS[-3:], "somebody else", "and another"]}, {"people": []}], "people"),
        ([{"people": [*UIDS[-2:], "somebody else", "and another", "and more"]}], None),
    ],
)
def test_wherever_uids_are_they_are_found(
    client: Client, make_database: MakeDatabase, documents: list[Any], field: str | None
) -> None:
    report = check(client, make_database({f"app_users{APP}": PEOPLE, f"new{APP}": documents}), USERS)
    assert brief(report) == ([("unclaimed_collection", APP, "new{app_id}", field)] if field else [])
    for finding in report.findings:
        assert ("hook" in finding.detail) == ("*" in str(finding.field))


def test_languages_versions_and_platforms_are_not_uids_although_somebody_is_called_so(
    client: Client, make_database: MakeDatabase
) -> None:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    letters, digits = "abcdefghijklmnopqrstuvwxyz", "0123456789"
    everyone = [first + second for first in digits + letters for second in digits + letters]
    everyone += [first + word for word in everyone for first in "123"] + ["ios", "web"]
    totals = [
        {"_id": word, "la": word, "os_version": version, "platform": platform, "ab": variant}
        for word in ("en", "de", "fr", "ja", "zh")
        for version in ("12", "13", "14", "9")
        for platform in ("ios", "web")
        for variant in ("a1", "b2", "v3")
    ]
    for number, total in enumerate(totals):
        total["_id"] += "" if number % 24 == 0 else f"_{number}"
    database = {f"app_users{APP}": [{"uid": uid} for uid in everyone], f"totals{APP}": totals}
    assert check(client, make_database(database), USERS).findings == ()


def test_a_shared_collection_is_found_and_those_of_the_staff_are_not(
    client: Client, make_database: MakeDatabase
) -> None:
    shared = [{"uid": uid, "app": APP} for uid in UIDS]
    database = {f"app_users{APP}": PEOPLE, "all_notes": shared, "members": shared, "systemlogs": shared, "empty": []}
    report = check(client, make_database(database), USERS)
    assert brief(report) == [("unclaimed_collection", None, "all_notes", "uid")]


def test_a_view_is_not_looked_at_but_what_it_shows(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    settings = make_database({f"app_users{APP}": PEOPLE, f"notes{APP}": notes(), f"real{APP}": notes()})
    database = mongo_client[settings.mongo_database]
    for view, on in (("notes_view", "notes"), ("people_view", "app_users"), ("real_view", "real")):
        database.create_collection(f"{view}{APP}", viewOn=f"{on}{APP}", pipeline=[])
    claims_a_view = "- {name: real, plugin: real, collection: 'real_view{app_id}', user_key: author.uid}"
    report = check(client, settings, USERS, claims_a_view)
    assert brief(report) == [("unclaimed_collection", APP, "notes{app_id}", "author.uid")]
    assert report.views == 2


# Entries that match nothing


def test_an_entry_whose_collection_no_app_has(client: Client, make_database: MakeDatabase) -> None:
    elsewhere = NOTES.replace("plugin:", "database: nowhere, plugin:")
    settings = make_database({f"app_users{APP}": PEOPLE, f"notes{APP}": []})
    assert check(client, settings, USERS, NOTES).findings == ()
    assert brief(check(client, settings, USERS, elsewhere)) == [
        ("collection_matches_nothing", None, "notes{app_id}", None)
    ]


@pytest.mark.parametrize("key", ["autor.uid", "uid", "_id", "text", "author"])
def test_a_misspelt_user_key(client: Client, make_database: MakeDatabase, key: str) -> None:
    documents = [note | {"text": f"text {number}"} for number, note in enumerate(notes())]
    report = check(
        client,
        make_database({f"app_users{APP}": PEOPLE, f"notes{APP}": documents}),
        USERS,
        NOTES.replace("author.uid", key),
    )
    assert brief(report) == [("user_key_matches_nothing", None, "notes{app_id}", key)]


def test_a_user_key_that_only_one_app_does_not_have(client: Client, make_database: MakeDatabase) -> None:
    database = {f"app_users{app}": PEOPLE for app in (APP, OTHER_APP)}
    settings = make_database(
        database | {f"notes{APP}": notes(), f"notes{OTHER_APP}": [{"author": {"user": uid}} for uid in UIDS]}
    )
    report = check(client, settings, USERS, NOTES)
    assert brief(report) == [("user_key_matches_nothing", OTHER_APP, "notes{app_id}", "author.uid")]


def test_a_few_documents_of_nobody_are_no_finding(client: Client, make_database: MakeDatabase) -> None:
    database = {f"app_users{app}": PEOPLE for app in (APP, OTHER_APP)}
    settings = make_database(database | {f"notes{APP}": notes(), f"notes{OTHER_APP}": [{"author": None}, {"text": ""}]})
    assert check(client, settings, USERS, NOTES).findings == ()


# Fields seen for the first time


def test_a_new_field_is_told_once(client: Client, mongo_client: Client, make_database: MakeDatabase) -> None:
    settings = make_database({f"app_users{APP}": PEOPLE, f"notes{APP}": notes()})
    catalog = catalog_of(USERS, NOTES)
    first, seen = check_drift(client, settings, catalog, {})
    assert first.findings == ()
    assert seen["notes"] == ["_id", "author", "author.uid", "text"]

    changed = {"$set": {"author.phone": "1", "place": {"city": "Riga", "at": [{"x": {"deep": 1}}]}, "map.2026-11": 1}}
    mongo_client[settings.mongo_database][f"notes{APP}"].update_many({}, changed)
    second, seen = check_drift(client, settings, catalog, json.loads(json.dumps(seen)))
    assert brief(second) == [("new_field", APP, "notes{app_id}", field) for field in ("map", "place", "author.phone")]
    assert {"place.at.x", "map.*"} <= set(seen["notes"])
    assert "place.at.x.deep" not in seen["notes"]

    third, again = check_drift(client, settings, catalog, seen)
    assert third.findings == ()
    assert again == seen


def test_a_rare_field_is_new_only_where_all_documents_were_read() -> None:
    entry = catalog_of(NOTES).entries[0]
    level = Field()
    for number in range(100):
        often = {"often": {"x": 1}} if number < 5 else {}
        rare = {"rare": [{"y": 1}] * 9} if number == 7 else {}
        level.look_at({"author": 1, **often, **rare})
    for whole, new in ((False, ["often"]), (True, ["often", "rare"])):
        found = dict(fields_seen(level, APP, whole=whole))
        findings, remembered = new_fields(entry, "countly", ["author"], found)
        assert [finding.field for finding in findings] == new
        assert ("rare.y" in remembered) == whole
        assert new_fields(entry, "countly", None, found) == ([], sorted(found))


def test_what_was_not_looked_at_stays_unknown(client: Client, make_database: MakeDatabase) -> None:
    settings = make_database({f"app_users{APP}": PEOPLE, f"notes{APP}": []})
    _, seen = check_drift(client, settings, catalog_of(USERS, NOTES), {"gone": ["uid"]})
    assert seen == {"gone": ["uid"], "users": ["_id", "did", "name", "uid"]}


def test_no_more_fields_are_remembered_than_are_fields(client: Client, make_database: MakeDatabase) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    wide = [{"author": {"uid": uid}, "custom": {a + b: 1 for a in letters for b in letters}} for uid in UIDS]
    settings = make_database({f"app_users{APP}": PEOPLE, f"notes{APP}": wide})
    _, seen = check_drift(client, settings, catalog_of(USERS, NOTES), {})
    assert len(seen["notes"]) <= 300


# The budget


@pytest.mark.parametrize("budget", [Budget(seconds=0), Budget(documents=0), Budget(seconds=-1)])
def test_a_budget_of_nothing_looks_at_nothing(client: Client, demo_settings: Settings, budget: Budget) -> None:
    report, seen = check_drift(client, demo_settings, load_catalog(), {}, budget=budget)
    assert (report.collections, report.documents, report.complete) == (0, 0, False)
    assert report.skipped >= 2 * len(load_catalog().entries)
    assert report.findings == ()
    assert seen == {}


def test_a_small_budget_is_shared_out_and_kept(client: Client, demo_settings: Settings) -> None:
    whole, _ = check_drift(client, demo_settings, load_catalog(), {})
    enough, _ = check_drift(client, demo_settings, load_catalog(), {}, budget=Budget(documents=whole.collections))
    assert (enough.collections, enough.complete) == (whole.collections, True)
    assert 0 < enough.documents <= whole.collections
    less, _ = check_drift(client, demo_settings, load_catalog(), {}, budget=Budget(documents=10))
    assert (less.documents, less.complete) == (10, False)
    assert less.collections + less.skipped == whole.collections
    assert less.budget == Budget(documents=10)


def test_one_document_of_many_is_no_proof_but_is_remembered(client: Client, make_database: MakeDatabase) -> None:
    settings = make_database(
        {f"app_users{APP}": PEOPLE, f"notes{APP}": [{"text": str(number)} for number in range(50)]}
    )
    catalog = catalog_of(USERS, NOTES)
    report, seen = check_drift(client, settings, catalog, {}, budget=Budget(documents=2))
    assert (report.findings, report.documents) == ((), 2)
    assert seen == {"users": ["_id", "did", "name", "uid"], "notes": ["_id", "text"]}
    assert len(check_drift(client, settings, catalog, {})[0].findings) == 1


def test_every_query_has_a_limit_on_the_server(mongo_uri: str, demo_settings: Settings) -> None:
    sent = Sent()
    with MongoClient[dict[str, Any]](mongo_uri, event_listeners=[sent]) as client:
        check_drift(client, demo_settings, load_catalog(), {}, budget=Budget(seconds=50))
    assert len(sent.reads) > 40
    assert all(0 < command["maxTimeMS"] <= 5_000 for command in sent.reads)


def test_a_slow_collection_is_skipped_and_the_others_are_not(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    settings = make_database({f"app_users{APP}": PEOPLE, f"slow{APP}": notes(), f"notes{APP}": notes()})
    with failing(mongo_client, "aggregate", errorCode=50, namespace=f"{settings.mongo_database}.slow{APP}"):
        report = check(client, settings, USERS)
        impatient = settings.model_copy(update={"read_timeout": timedelta(seconds=5)})
        unreadable = check(client, impatient, USERS)
    assert brief(report) == [("unclaimed_collection", APP, "notes{app_id}", "author.uid")]
    assert (report.skipped, report.complete) == (1, False)
    assert [finding.kind for finding in unreadable.findings] == ["unclaimed_collection", "unreadable"]


# What cannot be read


def test_an_unreadable_collection_is_not_an_empty_one(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    settings = make_database({f"app_users{APP}": PEOPLE, f"notes{APP}": notes(), f"new{APP}": notes()})
    for name, template in (("notes", "notes{app_id}"), ("new", "new{app_id}")):
        with failing(mongo_client, "aggregate", errorCode=13, namespace=f"{settings.mongo_database}.{name}{APP}"):
            report, seen = check_drift(client, settings, catalog_of(USERS, NOTES), {})
        [unreadable] = [finding for finding in report.findings if finding.kind == "unreadable"]
        assert (unreadable.app_id, unreadable.collection) == (APP, template)
        assert "the right 'find' on " in unreadable.detail
        assert ("notes" in seen) == (name != "notes")


def test_a_database_that_cannot_be_listed_has_not_lost_its_collections(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    settings = make_database({f"app_users{APP}": PEOPLE})
    with failing(mongo_client, "listCollections", errorCode=13):
        report = check(client, settings, USERS)
    assert brief(report) == [("unreadable", None, "*", None)]


def test_without_a_server_nothing_is_reported(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    settings = make_database({f"app_users{APP}": PEOPLE})
    for command in ("listCollections", "aggregate"):
        with failing(mongo_client, command, closeConnection=True), pytest.raises(MongoUnreachableError):
            check(client, settings, USERS)


# Apps


def listing_of(*names: str) -> dict[str, dict[str, Source]]:
    return {"main": {name: Source("main", name) for name in names}}


@pytest.mark.parametrize(
    ("names", "apps"),
    [
        ([f"app_users{APP}", f"notes{APP}"], {APP}),
        ([f"unheard_of_{APP}"], {APP}),
        (["drill_events" + "0a" * 20, "notes" + "0a" * 20], set()),  # hashes
        (["app_usersshop-1"], {"shop-1"}),
        (["notesettings", "members"], set()),
        (["app_users_backup", "notes_backup"], set()),
    ],
)
def test_apps_are_told_from_the_names_of_collections(names: list[str], apps: set[str]) -> None:
    assert apps_among(listing_of(*names), Claims(catalog_of(USERS, NOTES), "main")) == apps


def test_other_ids_count_where_two_patterns_agree() -> None:
    claims = Claims(catalog_of(NOTES, USERS.replace("app_users", "things")), "main")
    assert apps_among(listing_of("notesshop", "thingsshop", "notesettings"), claims) == {"shop"}


def test_an_app_that_is_named_need_not_be_told_from_names(client: Client, make_database: MakeDatabase) -> None:
    settings = make_database({"app_users_1": PEOPLE, "new_1": notes()})
    assert brief(check(client, settings, USERS, apps=["_1"])) == [
        ("unclaimed_collection", "_1", "new{app_id}", "author.uid")
    ]


# Nobody's name


def test_neither_the_report_nor_what_is_remembered_holds_a_uid(
    client: Client, mongo_client: Client, make_database: MakeDatabase
) -> None:
    uids = [f"person{number:03}@example.org" for number in range(20)] + [f"zq{number}" for number in range(20)]
    uids += ["zqadalovelace", "zqbob"] * 3
    by_uid = [{"author": {"uid": uid}, "count": 1, "by": {uid: {"n": 1}}, "list": [{uid: 1}]} for uid in uids]
    settings = make_database(
        {
            f"app_users{APP}": [{"uid": uid, "text": uid, uid: uid} for uid in uids],
            f"notes{APP}": by_uid,
            f"new{APP}": by_uid,
            f"map{APP}": [dict.fromkeys(uids, 1)],
            f"unreadable{APP}": [{"uid": uid} for uid in uids],
            "shared": by_uid,
        }
    )
    broken = NOTES.replace("notes{", "broken{").replace("name: notes", "name: broken")
    catalog = catalog_of(USERS, NOTES.replace("author.uid", "count"), broken)
    with failing(mongo_client, "aggregate", errorCode=2, namespace=f"{settings.mongo_database}.unreadable{APP}"):
        report, seen = check_drift(client, settings, catalog, {"notes": [], "users": []})
    assert {finding.kind for finding in report.findings} == {
        "unclaimed_collection",
        "collection_matches_nothing",
        "user_key_matches_nothing",
        "new_field",
        "unreadable",
    }
    written = report.model_dump_json() + json.dumps(seen) + repr(report)
    assert "zq" not in written
    assert "example" not in written


TELLING_UIDS = st.sampled_from(["zq1", "zq2a", "adalovelace", "zq-7f3e", "a@b.example", "0f3c", "2026zq"])
NAMES = st.sampled_from(["_id", "uid", "count", "by", "line1"]) | TELLING_UIDS
DOCUMENTS = st.lists(
    st.recursive(
        st.dictionaries(NAMES, st.integers() | TELLING_UIDS),
        lambda inner: st.dictionaries(NAMES, inner | st.lists(inner, max_size=3), max_size=4),
        max_leaves=12,
    ),
    max_size=6,
)


@given(DOCUMENTS)
def test_no_telling_uid_is_left_among_names(documents: list[dict[str, Any]]) -> None:
    uids = {"zq1", "zq2a", "adalovelace", "zq-7f3e", "a@b.example", "0f3c", "2026zq"}
    level = Field()
    for document in documents:
        level.look_at(document)
    known = Uids(frozenset(uids), usual_length=3)
    shown = without_keys(level, known)
    paths = [path for path, _ in shown.paths()] + fields_with_uids(shown, known)
    assert not any(uid in path for path in paths for uid in uids)
    assert sum(inner.times for inner in shown.fields.values()) == sum(map(len, documents))


def test_fields_are_names_and_keys_are_not() -> None:
    level = Field()
    for number in range(10):
        level.look_at({"_id": number, "total": 1, "d": {"1": 1, "2": 1}, "by": {str(ObjectId()): {"n": 1}}, "line2": 1})
    nobody = Uids(frozenset(), usual_length=1)
    assert sorted(path for path, _ in without_keys(level, nobody).paths()) == [
        *("_id", "by", "by.*", "by.*.n", "d", "d.*", "line2", "total")
    ]


def test_a_short_uid_may_be_a_fields_name_too_unless_few_documents_have_it() -> None:
    level = Field()
    for number in range(10):
        level.look_at({"_id": number, "ls": 1, "count": 2, **({"ada": 1} if number == 3 else {})})
    shown = without_keys(level, Uids(frozenset({"ls", "ada", "bob"}), usual_length=3))
    assert sorted(path for path, _ in shown.paths()) == ["*", "_id", "count", "ls"]


def test_a_report_survives_json() -> None:
    finding = Finding(kind="unreadable", database="countly", collection="*", detail="why")
    report = DriftReport(
        findings=(finding,),
        apps=1,
        collections=2,
        skipped=0,
        views=0,
        documents=3,
        seconds=0.5,
        budget=Budget(),
        complete=True,
    )
    assert DriftReport.model_validate_json(report.model_dump_json()) == report
