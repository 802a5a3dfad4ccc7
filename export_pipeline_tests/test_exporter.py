"""A request through the library, from its row to its file, compared with what plain finds return."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from pyarrow import parquet
from pymongo import MongoClient

from export_pipeline.catalog.model import LoadedCatalog
from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.packages.manifest import Manifest
from export_pipeline.requests.models import NewRequest

LENIENT = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_AUTO, tz_aware=True)
"""The demo has dates that Python's datetime cannot hold."""
CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, datetime_conversion=DatetimeConversion.DATETIME_AUTO, tz_aware=True
)
"""How json_util reads them back."""


def all_uids(client: MongoClient[dict[str, Any]], demo: DemoData) -> list[str]:
    users = client["countly"][f"app_users{demo.app_ids[0]}"].find({}, {"uid": 1, "merged_uid": 1})
    found = [uid for user in users for uid in [user.get("uid"), *(user.get("merged_uid") or [])]]
    return sorted({uid for uid in found if isinstance(uid, str) and uid})


def held(client: MongoClient[dict[str, Any]], catalog: LoadedCatalog, app_id: str, uids: list[str]) -> Counter[Any]:
    """What plain finds over the catalogue return: (collection, document as BSON), with how often."""
    found: Counter[Any] = Counter()
    for entry in catalog.entries:
        collection = client[entry.database or "countly"].get_collection(entry.collection_of(app_id), LENIENT)
        for document in collection.find({entry.user_key: {"$in": uids}}):
            found[collection.name, bson.encode(document)] += 1
    return found


def in_json(file: Path) -> Counter[Any]:
    """What a JSON export holds, read by an independent reader: (tag, document as BSON)."""
    return Counter(untagged(document) for document in json.loads(file.read_bytes()))


def untagged(tagged: dict[str, Any]) -> tuple[str, bytes]:
    assert next(iter(tagged)) == "_col"
    collection = tagged.pop("_col")
    own = {key.removeprefix("_") if key.startswith("__col") else key: value for key, value in tagged.items()}
    return collection, as_bson(json.dumps(own))


def as_bson(extended_json: str) -> bytes:
    return bson.encode(json_util.loads(extended_json, json_options=CANONICAL))


def in_parquet(file: Path) -> Counter[Any]:
    table = parquet.read_table(file)
    return Counter((row["_col"], as_bson(row["_doc"])) for row in table.to_pylist())


def export(exporter: Exporter, new: NewRequest, output: Path) -> Manifest:
    return exporter.run_here(exporter.submit(new, run_here=True), output)


def test_every_user_of_the_demo_gets_exactly_what_plain_finds_return(
    exporter: Exporter, demo: DemoData, mongo_client: MongoClient[dict[str, Any]], tmp_path: Path
) -> None:
    app_id = demo.app_ids[0]
    uids = [*all_uids(mongo_client, demo), demo.empty_uid]
    assert len(uids) >= 40
    for number, uid in enumerate(uids):
        expected = held(mongo_client, exporter.catalog, app_id, [uid])
        as_json, as_parquet = tmp_path / f"{number}.json", tmp_path / f"{number}.parquet"
        manifest = export(exporter, NewRequest(app_id, [uid], "json", "canonical"), as_json)
        export(exporter, NewRequest(app_id, [uid], "parquet"), as_parquet)
        assert in_json(as_json) == expected
        assert in_parquet(as_parquet) == expected
        assert manifest.totals.documents_written == expected.total()
