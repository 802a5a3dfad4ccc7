"""The packaged catalogue, and what an author of another one reads about each mistake."""

import hashlib
from pathlib import Path

import pytest

from export_pipeline.catalog.load import PACKAGED, load_catalog, parse_catalog
from export_pipeline.catalog.model import Entry
from export_pipeline.errors import CatalogError

DECLARED_BY_COUNTLY = {
    "app_users{app_id}": "uid",
    "metric_changes{app_id}": "uid",
    "app_crashes{app_id}": "uid",
    "app_crashusers{app_id}": "uid",
    "feedback{app_id}": "uid",
    "push_{app_id}": "_id",
    "app_userviews{app_id}": "_id",
}
"""What Countly's own plugins put into a user's export, and the field that holds the uid there."""

GOOD = """\
version: 1

collections:
  - name: users
    plugin: users
    collection: app_users{app_id}
    user_key: uid
    time_field: ls
    time_unit: s
    exclude: [group.secret, token]
  - name: surveys
    plugin: surveys
    collection: surveys{app_id}
    database: other
    user_key: respondent.uid
"""


def parse(text: str) -> tuple[Entry, ...]:
    return parse_catalog(text.encode(), Path("mine.yaml")).entries


# What is right


def test_the_packaged_catalogue_has_what_countlys_plugins_declare() -> None:
    catalog = load_catalog()
    keys = {entry.collection: entry.user_key for entry in catalog.entries if entry.database is None}
    assert DECLARED_BY_COUNTLY.items() <= keys.items()
    assert len(catalog.entries) >= 17


def test_the_packaged_catalogue_says_where_it_is_from() -> None:
    catalog = load_catalog()
    assert catalog.path == PACKAGED
    assert catalog.version == 1
    assert catalog.sha256 == hashlib.sha256(PACKAGED.read_bytes()).hexdigest()


def test_a_person_is_told_what_everything_in_the_packaged_catalogue_is_for() -> None:
    for entry in load_catalog().entries:
        assert entry.category
        assert entry.purpose


def test_entries_keep_their_order_and_their_fields() -> None:
    users, surveys = parse(GOOD)
    assert (users.name, users.time_field, users.time_unit) == ("users", "ls", "s")
    assert users.exclude == ("group.secret", "token")
    assert (surveys.name, surveys.user_key, surveys.database) == ("surveys", "respondent.uid", "other")
    assert surveys.portable
    assert surveys.exclude == ()


def test_the_app_id_becomes_part_of_the_collections_name() -> None:
    assert parse(GOOD)[0].collection_of("652f1a") == "app_users652f1a"


def test_a_catalogue_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    catalog = load_catalog(tmp_path / "mine.yaml")
    assert catalog.entry("surveys").plugin == "surveys"
    assert catalog.path == tmp_path / "mine.yaml"


# What is wrong: (what is replaced in the good one, by what, the line that the error names, its words)

USERS = "app_users{app_id}"
FIELDS = "known are name, plugin, collection, database, user_key"
MISTAKES: dict[str, tuple[str, str, int, str]] = {
    "missing field": ("    user_key: uid\n", "", 4, '"user_key" is missing; it names the field that holds the uid'),
    "missing field of the second entry": ("    plugin: surveys\n", "", 11, '"plugin" is missing; it names the plugin'),
    "missing version": ("version: 1\n", "", 2, '"version" is missing; it is the version of this file'),
    "another version": ("version: 1", "version: 2", 1, '"version": Input should be 1'),
    "unknown field": ("time_field: ls", "timefield: ls", 8, f'"timefield" is not a field of the catalogue; {FIELDS}'),
    "unknown field at the top": ("version: 1", "version: 1\nowner: me", 2, '"owner" is not a field of the catalogue'),
    "field given twice": ("database: other", "plugin: other", 14, '"plugin" is given twice'),
    "section given twice": ("version: 1", "collections: []\nversion: 1", 4, '"collections" is given twice'),
    "name used twice": ("name: surveys", "name: users", 11, '"name" users is already used in line 4'),
    "collection used twice": ("surveys{app_id}", USERS, 13, f'"collection" {USERS} is already used in line 6'),
    "name with a capital": ("name: surveys", "name: Surveys", 11, '"name": use a lower-case letter'),
    "name that climbs": ("name: surveys", "name: ../x", 11, '"name": use a lower-case letter'),
    "empty part of a user key": ("respondent.uid", "respondent..uid", 15, '"user_key": it is not a field\'s path'),
    "operator as a user key": ("respondent.uid", "$where", 15, '"user_key": it is not a field\'s path'),
    "position in a user key": ("respondent.uid", "uids.0", 15, '"user_key": a path must not name an array\'s position'),
    "no app id": (USERS, "app_users", 6, '"collection": it must hold {app_id} exactly once, or one app\'s export'),
    "two app ids": (USERS, "'{app_id}{app_id}'", 6, '"collection": it must hold {app_id} exactly once'),
    "dollar": (USERS, "app$users{app_id}", 6, '"collection": it is not a plain name of a collection'),
    "system collection": (USERS, "system.users{app_id}", 6, '"collection": it is not a plain name of a collection'),
    "other braces": (USERS, "'{db}users{app_id}'", 6, '"collection": it is not a plain name of a collection'),
    "database with a dot": ("database: other", "database: a.b", 14, '"database": it is not a name that MongoDB allows'),
    "number for text": ("name: users", "name: 7", 4, '"name": Input should be a valid string'),
    "text for a list": ("[group.secret, token]", "token", 10, '"exclude": expected a list'),
    "wrong item of a list": (
        "[group.secret, token]",
        "\n    - a\n    - 7",
        12,
        '"exclude": Input should be a valid str',
    ),
    "text for true or false": ("database: other", "portable: 'yes'", 14, '"portable": Input should be a valid boolean'),
    "unknown unit": ("time_unit: s", "time_unit: days", 9, "\"time_unit\": Input should be 's', 'ms' or 'date'"),
    "time field without a unit": ("    time_unit: s\n", "", 4, "time_field and time_unit go together"),
    "unit without a time field": ("    time_field: ls\n", "", 4, "time_field and time_unit go together"),
    "exclude of the user key": ("[group.secret, token]", "[uid]", 4, "exclude: 'uid' cannot be left out"),
    "exclude of a part of it": ("database: other", "exclude: [respondent]", 11, "exclude: 'respondent' cannot be left"),
    "exclude of the id": ("[group.secret, token]", "[_id]", 4, "exclude: '_id' cannot be left out"),
    "exclude inside another": ("[group.secret, token]", "[group, group.x]", 4, "'group.x' lies inside another"),
    "a word for an entry": (
        "  - name: surveys",
        "  - surveys\n  - name: surveys",
        11,
        "Input should be a valid dictionary",
    ),
    "quotes that do not end": ("name: surveys", 'name: "surveys', 16, "found unexpected end of stream"),
    "tab": ("    user_key: uid", "\tuser_key: uid", 7, "found character '\\t' that cannot start any token"),
    "wrong indentation": ("    plugin: users", "  plugin: users", 5, "expected <block end>"),
    "unknown alias": ("plugin: users", "plugin: *users", 5, "found undefined alias"),
    "code": ("plugin: users", "plugin: !!python/name:os.system x", 5, "could not determine a constructor for the tag"),
    "a date that is none": ("database: other", "purpose: 2024-02-30", 14, "day is out of range for month; put text in"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_line(mistake: str) -> None:
    right, wrong, line, words = MISTAKES[mistake]
    assert GOOD.count(right) >= 1
    with pytest.raises(CatalogError) as raised:
        parse(GOOD.replace(right, wrong, 1))
    [message] = str(raised.value).splitlines()
    assert message.startswith(f"catalogue mine.yaml line {line}: ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the file is empty; it needs 'version' and 'collections'"),
        ("# nothing\n", "line 1: the file is empty; it needs 'version' and 'collections'"),
        ("words", "line 1: Input should be a valid dictionary"),
        ("version: 1\ncollections: []\n", 'line 2: "collections": it must list at least one collection'),
        ("version: 1\ncollections:\n", 'line 2: "collections": expected a list'),
        (f"{GOOD}---\n{GOOD}", "line 16: but found another document"),
    ],
)
def test_a_file_that_is_no_catalogue_at_all(text: str, message: str) -> None:
    with pytest.raises(CatalogError) as raised:
        parse(text)
    assert str(raised.value).startswith(f"catalogue mine.yaml {message}")


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(CatalogError) as raised:
        parse(GOOD.replace("    plugin: users\n", "").replace("respondent.uid", "7"))
    assert [message.split(":")[0] for message in str(raised.value).splitlines()] == [
        "catalogue mine.yaml line 4",
        "catalogue mine.yaml line 14",
    ]


def test_bytes_that_are_no_text_are_no_catalogue() -> None:
    with pytest.raises(CatalogError, match=r"^catalogue mine.yaml line 1: it is not YAML"):
        parse_catalog(b"\xff\xfe\xff", Path("mine.yaml"))


def test_a_file_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"no.yaml: no such file or directory; see EXPORT_PIPELINE_CATALOG"):
        load_catalog(tmp_path / "no.yaml")
    with pytest.raises(CatalogError, match=r": is a directory; see EXPORT_PIPELINE_CATALOG"):
        load_catalog(tmp_path)
