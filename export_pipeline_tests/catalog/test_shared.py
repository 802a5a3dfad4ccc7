"""What the catalogue says for backups: collections that apps share, and those that are only added to."""

from pathlib import Path

import pytest

from export_pipeline.catalog.load import load_catalog, parse_catalog
from export_pipeline.errors import CatalogError

GOOD = """\
version: 1
collections:
  - name: events
    plugin: events
    collection: drill_events{app_id}
    user_key: uid
    time_field: ts
    time_unit: ms
    append_only: true
shared:
  - collection: apps
    app_key: _id
    key_type: objectId
  - {collection: notes, database: other, app_key: app_id}
"""


def test_shared_collections_name_the_field_with_the_app_id() -> None:
    shared = parse_catalog(GOOD.encode(), Path("mine.yaml")).shared
    assert [(each.collection, each.database, each.app_key, each.key_type) for each in shared] == [
        ("apps", None, "_id", "objectId"),
        ("notes", "other", "app_id", "string"),
    ]


def test_a_catalogue_needs_none() -> None:
    assert parse_catalog(GOOD[: GOOD.index("shared:")].encode(), Path("mine.yaml")).shared == ()


def test_the_packaged_one_knows_the_registry_of_apps() -> None:
    assert "apps" in [each.collection for each in load_catalog().shared]


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("key_type: objectId", "key_type: number", 'line 13: "key_type"'),
        ("    app_key: _id\n", "", 'line 11: "app_key" is missing; it names the field that holds the app id'),
        (
            "collection: apps",
            "collection: apps{app_id}",
            'line 11: "collection": a shared collection has the same name',
        ),
        ("collection: apps", "collection: system.users", 'line 11: "collection": it is not a plain name'),
        (
            "key_type: objectId",
            "user_key: uid",
            'line 13: "user_key" is not a field of the catalogue; known are collec',
        ),
        (
            "{collection: notes, database: other,",
            "{collection: apps,",
            'line 14: "collection" apps is already used in l',
        ),
        ("    time_field: ts\n    time_unit: ms\n", "", 'line 3: "collections": append_only needs time_field'),
        ("app_key: app_id", "app_key: 'a..b'", 'line 14: "app_key": it is not a field'),
    ],
)
def test_a_mistake_names_its_line(right: str, wrong: str, message: str) -> None:
    assert right in GOOD
    with pytest.raises(CatalogError) as raised:
        parse_catalog(GOOD.replace(right, wrong).encode(), Path("mine.yaml"))
    assert message in str(raised.value)
