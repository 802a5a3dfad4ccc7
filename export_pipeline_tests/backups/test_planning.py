from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.backups.planning import folder_names
from export_pipeline.storage.protocol import checked_key

names = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["records", "plan.json", "manifest.json", ".hidden", "a/../b", "é"]
)


@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), names), unique=True, max_size=8))
def test_every_collection_has_a_folder_of_its_own_that_a_storage_takes(collections: list[tuple[str, str]]) -> None:
    folders = folder_names(collections)
    assert folders.keys() == set(collections)
    assert len({folder.lower() for folder in folders.values()} | {"records", "plan.json", "manifest.json"}) == (
        len(collections) + 3
    )
    for folder in folders.values():
        checked_key(f"backups/app/{folder}/part-00000.bson")
        checked_key(f"backups/app/{folder}/{folder}.metadata.json")
        assert Path(folder).name == folder


def test_plain_names_stay_as_they_are() -> None:
    assert folder_names([("countly", "app_users5"), ("countly", "drill.events")]) == {
        ("countly", "app_users5"): "app_users5",
        ("countly", "drill.events"): "drill.events",
    }


def test_a_name_leads_to_the_same_folder_whatever_else_there_is() -> None:
    alone, among = folder_names([("countly", "a b")]), folder_names([("countly", "a b"), ("countly", "a_b")])
    assert among["countly", "a b"] == alone["countly", "a b"]
