from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from export_pipeline.demo.data import DEMO_APP_ID, DEMO_UID, DemoData, load_demo_data
from export_pipeline.demo.people import APPS, people_of
from export_pipeline.demo.shapes import PLUGINS, Plugin
from export_pipeline.errors import BadInputError

MAIN, DRILL = "demo_test", "demo_test_drill"
ALL_BSON_TYPES = {*range(0x01, 0x14), 0xFF, 0x7F}
MERGED = people_of(APPS[0], 20, 1, 2026)[4]

Client = MongoClient[Any]


def load(client: Client, **arguments: Any) -> DemoData:
    return load_demo_data(client, MAIN, DRILL, **({"users": 40, "scale": 0.02} | arguments))


def drop(client: Client) -> None:
    client.drop_database(MAIN)
    client.drop_database(DRILL)


@pytest.fixture(scope="module")
def demo(mongo_client: Client) -> Iterator[DemoData]:
    drop(mongo_client)
    yield load(mongo_client)
    drop(mongo_client)


@pytest.fixture
def clean(mongo_client: Client) -> Iterator[Client]:
    drop(mongo_client)
    yield mongo_client
    drop(mongo_client)


def raw_documents(client: Client) -> Iterator[tuple[str, bytes]]:
    for name in (MAIN, DRILL):
        for collection in client[name].list_collection_names():
            for batch in client[name][collection].find_raw_batches({}, sort=[("$natural", 1)]):
                yield from ((collection, document) for document in split(batch))


def split(batch: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(batch):
        end = start + int.from_bytes(batch[start : start + 4], "little")
        yield batch[start:end]
        start = end


def bson_types(document: bytes) -> Iterator[tuple[int, int | None]]:
    """Yield the type of every value in a document, at any depth, with its subtype if it is binary."""
    position = 4
    while (kind := document[position]) != 0:
        value = document.index(0, position + 1) + 1
        length = int.from_bytes(document[value : value + 4], "little")
        yield kind, document[value + 4] if kind == 0x05 else None
        match kind:
            case 0x03 | 0x04:
                yield from bson_types(document[value : value + length])
                size = length
            case 0x0F:
                size = length
            case 0x02 | 0x0D | 0x0E:
                size = 4 + length
            case 0x05:
                size = 5 + length
            case 0x0C:
                size = 4 + length + 12
            case 0x0B:
                size = document.index(0, document.index(0, value) + 1) + 1 - value
            case _:
                size = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16}.get(kind, 0)
        position = value + size


def counts_by_uid(client: Client, plugin: Plugin, app_id: str = DEMO_APP_ID) -> Counter[Any]:
    collection = client[DRILL if plugin.drill else MAIN][plugin.collection(app_id)]
    groups = collection.aggregate([{"$group": {"_id": f"${plugin.user_key}", "n": {"$sum": 1}}}])
    return Counter({group["_id"]: group["n"] for group in groups if isinstance(group["_id"], str)})


def documents_of(client: Client, uid: str) -> dict[str, set[bytes]]:
    found = {}
    for plugin in PLUGINS:
        database = client[DRILL if plugin.drill else MAIN]
        raw = database.get_collection(
            plugin.collection(DEMO_APP_ID),
            codec_options=client.codec_options.with_options(document_class=RawBSONDocument),
        )
        found[plugin.name] = {bytes(document.raw) for document in raw.find({plugin.user_key: uid})}
    return found


def hashes(client: Client) -> list[dict[str, str]]:
    return [client[name].command("dbHash")["collections"] for name in (MAIN, DRILL)]


def test_the_same_seed_gives_the_same_documents(clean: Client) -> None:
    load(clean)
    first = hashes(clean)
    load(clean)
    assert hashes(clean) == first
    load(clean, seed=2027)
    assert all(hashes(clean)[1][name] != value for name, value in first[1].items())


def test_the_small_user_is_the_same_in_every_demo(clean: Client) -> None:
    load(clean)
    first = documents_of(clean, DEMO_UID)
    load(clean, users=21, scale=0.001)
    assert documents_of(clean, DEMO_UID) == first
    assert all(first.values())


def test_every_type_of_bson_is_there(demo: DemoData, mongo_client: Client) -> None:
    types = {kind for _, document in raw_documents(mongo_client) for kind in bson_types(document)}
    assert {kind for kind, _ in types} == ALL_BSON_TYPES
    assert {subtype for _, subtype in types} >= {0, 1, 2, 3, 4, 5, 6, 8, 9, 0x80, 0xFF}


def test_odd_names_survive_the_server(demo: DemoData, mongo_client: Client) -> None:
    raw = documents_of(mongo_client, DEMO_UID)["remote_config_history"]
    assert sum(b"\x02_col\x00" in document for document in raw) == 1
    assert any(document.count(b"\x02value\x00") + document.count(b"\x10value\x00") == 2 for document in raw)
    assert any(b"\x02\x00\x17\x00\x00\x00a field without a name\x00" in document for document in raw)


def test_ids_are_of_several_types(demo: DemoData, mongo_client: Client) -> None:
    types = mongo_client[MAIN][f"ratings{DEMO_APP_ID}"].aggregate([{"$group": {"_id": {"$type": "$_id"}}}])
    assert {found["_id"] for found in types} >= {"objectId", "string", "long", "object", "binData"}


def test_it_says_how_many_documents_there_are(demo: DemoData, mongo_client: Client) -> None:
    assert demo.documents == sum(1 for _ in raw_documents(mongo_client))


def test_a_few_people_have_most_of_the_documents(demo: DemoData, mongo_client: Client) -> None:
    per_plugin = {plugin.name: counts_by_uid(mongo_client, plugin) for plugin in PLUGINS}
    per_uid = sum(per_plugin.values(), Counter[Any]())
    heaviest, second, third, *_ = per_uid.most_common()
    assert [heaviest, second[1], third[1]] == [(demo.heaviest_uid, 1000), 400, 240]
    assert per_plugin["drill_events"][demo.heaviest_uid] > 600
    assert min(len(uids) for uids in per_plugin.values()) < 20, "everybody has something everywhere"


def test_nobody_knows_the_empty_user(demo: DemoData, mongo_client: Client) -> None:
    assert not [name for name, document in raw_documents(mongo_client) if demo.empty_uid.encode() in document]


def test_documents_of_merged_uids_are_still_there(demo: DemoData, mongo_client: Client) -> None:
    assert MERGED.uid == demo.merged_uid
    users = mongo_client[MAIN][f"app_users{DEMO_APP_ID}"]
    [user] = users.find({"uid": demo.merged_uid})
    assert user["merged_uid"] == list(MERGED.old_uids)
    assert user["merges"] == len(user["did"]) - 1 == 2
    for old_uid in MERGED.old_uids:
        found = documents_of(mongo_client, old_uid)
        assert not found.pop("app_users")
        assert all(found.values())


def test_strangers_belong_to_nobody(demo: DemoData, mongo_client: Client) -> None:
    known = {uid for person in people_of(APPS[0], 40, 0.02, 2026) for uid in person.identities}
    for plugin in PLUGINS:
        uids = counts_by_uid(mongo_client, plugin)
        assert set(uids) - known == {"", "1A2", "1a2 ", "1a", "1a22"}
    events = mongo_client[DRILL][f"drill_events{DEMO_APP_ID}"]
    assert events.count_documents({"uid": {"$exists": False}}) == 1
    assert events.count_documents({"uid": {"$type": "int"}}) == 3  # one of them in an array


def test_both_apps_know_the_same_uid_as_different_people(demo: DemoData, mongo_client: Client) -> None:
    names = {
        mongo_client[MAIN][f"app_users{app_id}"].find_one({"uid": DEMO_UID}, {"did": 1})["did"]  # type: ignore[index]
        for app_id in demo.app_ids
    }
    assert len(names) == 2


def test_some_collections_have_no_index_on_the_user(demo: DemoData, mongo_client: Client) -> None:
    for plugin in PLUGINS:
        indexes = mongo_client[DRILL if plugin.drill else MAIN][plugin.collection(DEMO_APP_ID)].index_information()
        indexed = any(index["key"][0][0] == plugin.user_key for index in indexes.values())
        assert indexed == (plugin.name not in {"feedback", "surveys"})


def test_progress_is_told_to_the_end(clean: Client) -> None:
    told: list[tuple[int, int]] = []
    result = load(clean, users=20, scale=0.001, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (result.documents, result.documents)


@pytest.mark.parametrize("collection", ["apps", "members"])
def test_a_real_database_is_refused_and_left_alone(clean: Client, collection: str) -> None:
    load(clean, users=20, scale=0.001)
    clean[MAIN][collection].insert_one({"name": "Production"})
    before = hashes(clean)
    with pytest.raises(BadInputError, match=rf"{MAIN}\.{collection} holds documents that the demo did not make"):
        load(clean)
    assert hashes(clean) == before


def test_other_collections_are_left_alone(clean: Client) -> None:
    clean[MAIN]["jobs"].insert_one({"_id": 1})
    load(clean, users=20, scale=0.001)
    assert clean[MAIN]["jobs"].count_documents({}) == 1


@pytest.mark.parametrize("wrong", [{"users": 19}, {"scale": 0}, {"scale": -1.0}, {"scale": float("nan")}])
def test_arguments_out_of_range_are_refused(mongo_client: Client, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match=r"(users|scale) is .+; (the demo needs|it must be)"):
        load(mongo_client, **wrong)
