from pathlib import Path

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.backups.scope import Scope, app_value, databases_of, scope_of
from export_pipeline.catalog.load import parse_catalog
from export_pipeline.catalog.model import LoadedCatalog
from export_pipeline.errors import BadInputError

MINE, OTHER = "652f1a7e9c3b4d0012ab34c1", "652f1a7e9c3b4d0012ab34c2"

CATALOG = """\
version: 1
identity: {collection: "app_users{app_id}", uid: uid}
collections:
  - {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
  - {name: push, plugin: push, collection: "push_{app_id}", user_key: _id}
  - {name: nps, plugin: nps, collection: "nps{app_id}", user_key: uid}
  - {name: surveys, plugin: surveys, collection: "surveys{app_id}", database: answers, user_key: uid}
shared:
  - {collection: apps, app_key: _id, key_type: objectId}
  - {collection: notes, app_key: app_id}
"""


def catalog() -> LoadedCatalog:
    return parse_catalog(CATALOG.encode(), Path("mine.yaml"))


def scope(app_id: str, *names: str, database: str = "countly") -> Scope:
    return scope_of({database: names}, catalog(), "countly", app_id)


def taken(app_id: str, *names: str, database: str = "countly") -> list[str]:
    return [each.name for each in scope(app_id, *names, database=database).collections]


def test_an_app_has_the_catalogues_collections_and_those_with_its_id() -> None:
    found = scope(
        MINE, f"app_users{MINE}", f"app_viewdata{MINE}", f"retention_{MINE}_daily", f"app_users{OTHER}", "members"
    )
    assert [(each.name, each.entry and each.entry.name) for each in found.collections] == [
        (f"app_users{MINE}", "users"),
        (f"app_viewdata{MINE}", None),
        (f"retention_{MINE}_daily", None),
    ]
    assert found.left_out == ()


def test_shared_collections_are_taken_by_the_apps_documents() -> None:
    (apps, notes) = scope(MINE, "apps", "notes", "members").collections
    assert apps.shared is not None
    assert notes.shared is not None
    assert app_value(apps.shared, MINE) == ObjectId(MINE)
    assert app_value(notes.shared, MINE) == MINE


def test_an_app_id_that_cannot_be_in_a_shared_collection_is_refused() -> None:
    apps = catalog().shared[0]
    with pytest.raises(BadInputError, match="apps has app ids as objectId"):
        app_value(apps, "shop")


def test_collections_of_other_databases_are_the_catalogues() -> None:
    assert databases_of(catalog(), "countly") == ["countly", "answers"]
    assert taken(MINE, f"surveys{MINE}", f"surveys{OTHER}", database="answers") == [f"surveys{MINE}"]


def test_what_the_server_keeps_for_itself_is_not_taken() -> None:
    assert taken(MINE, f"system.buckets.app_users{MINE}", "system.views") == []


@pytest.mark.parametrize("longer", [f"{MINE}2", f"x{MINE}", f"{MINE}-test", f"old_{MINE}"])
def test_an_app_whose_id_holds_this_ones_keeps_its_own(longer: str) -> None:
    mine = [f"app_users{MINE}", f"views_{MINE}"]
    others = [f"app_users{longer}", f"push_{longer}", f"views_{longer}"]
    assert taken(MINE, *mine, *others) == sorted(mine)
    assert taken(longer, *mine, *others) == sorted(others)


@pytest.mark.parametrize(("mine", "other"), [("5", "15"), ("shop", "bookshop"), ("shop", "book_shop"), ("b", "a-b")])
def test_short_ids_are_not_found_in_longer_ones(mine: str, other: str) -> None:
    names = [f"{stem}{app_id}" for stem in ("app_users", "push_", "sums_") for app_id in (mine, other)]
    assert taken(mine, *names) == sorted(name for name in names if not name.endswith(other))
    assert taken(other, *names) == sorted(name for name in names if name.endswith(other))


def test_what_may_be_another_apps_is_left_out_and_said() -> None:
    found = scope("shop", "app_usersshop", "npsbookshop", "myshop", "other")
    assert [each.name for each in found.collections] == ["app_usersshop"]
    assert found.left_out == ("countly.myshop", "countly.npsbookshop")


def test_the_longest_pattern_says_whose_a_collection_is() -> None:
    wide = CATALOG.replace('"push_{app_id}"', '"app_{app_id}"')
    found = scope_of(
        {"countly": ["app_users5", "app_5"]}, parse_catalog(wide.encode(), Path("mine.yaml")), "countly", "5"
    )
    assert [each.name for each in found.collections] == ["app_5", "app_users5"]


def test_all_apps_are_all_that_patterns_see_and_all_that_is_shared() -> None:
    names = [f"app_users{MINE}", f"app_users{OTHER}", "push_shop", f"x{OTHER}y", "apps", "members", "system.views"]
    found = scope("*", *names)
    assert [each.name for each in found.collections] == sorted(set(names) - {"members", "system.views"})
    assert all(each.shared is None for each in found.collections)


ids = st.text("ab1-_", min_size=1, max_size=4)


@given(ids, st.lists(ids, max_size=4), st.lists(st.sampled_from(["app_users", "push_", "sums_", "nps"]), unique=True))
def test_no_collection_is_two_apps(mine: str, others: list[str], stems: list[str]) -> None:
    apps = {mine, *others}
    names = sorted({f"{stem}{app_id}" for stem in ["app_users", *stems] for app_id in apps})
    holders = [name for app_id in apps for name in taken(app_id, *names)]
    assert len(holders) == len(set(holders))
    for app_id in apps:
        assert f"app_users{app_id}" in taken(app_id, *names)
