"""A request through the library, from its row to its file, compared with what plain finds return."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from pyarrow import parquet
from pymongo import MongoClient
from sqlalchemy import update

from export_pipeline.catalog.model import LoadedCatalog
from export_pipeline.demo.data import DemoData
from export_pipeline.errors import IncompleteError, PointInTimeError
from export_pipeline.exporter import Exporter
from export_pipeline.formats.json_text import JsonArray
from export_pipeline.formats.registry import FORMATS
from export_pipeline.mongo.bson_stream import Piece
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.packages.manifest import Manifest
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.schema import export_requests
from export_pipeline.settings import Settings
from export_pipeline.slices.slice_file import index_key
from export_pipeline_tests.conftest import MakeDatabase

LENIENT = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_AUTO, tz_aware=True)
"""The demo has dates that Python's datetime cannot hold."""
CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, datetime_conversion=DatetimeConversion.DATETIME_AUTO, tz_aware=True
)
"""How json_util reads them back."""


def people(client: MongoClient[dict[str, Any]], demo: DemoData) -> dict[str, list[str]]:
    """Every uid of the first app, with all uids of the same person."""
    same: dict[str, list[str]] = {}
    for user in client["countly"][f"app_users{demo.app_ids[0]}"].find({}, {"uid": 1, "merged_uid": 1}):
        if isinstance(user.get("uid"), str) and user["uid"]:
            uids = [user["uid"], *user.get("merged_uid", [])]
            same |= dict.fromkeys(uids, uids)
    return same


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
    own = {key[1:] if re.fullmatch("__+col", key) else key: value for key, value in tagged.items()}
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
    everybody = {**people(mongo_client, demo), demo.empty_uid: [demo.empty_uid]}
    assert len(everybody) >= 40
    assert len(everybody[demo.merged_uid]) == 3
    for number, (uid, same) in enumerate(everybody.items()):
        expected = held(mongo_client, exporter.catalog, app_id, same)
        as_json, as_parquet = tmp_path / f"{number}.json", tmp_path / f"{number}.parquet"
        manifest = export(exporter, NewRequest(app_id, [uid], "json", "canonical"), as_json)
        export(exporter, NewRequest(app_id, [uid], "parquet"), as_parquet)
        assert in_json(as_json) == expected
        assert in_parquet(as_parquet) == expected
        assert manifest.totals.documents_written == expected.total()


CATALOG = """
version: 1
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- {name: crashes, plugin: crashes, collection: "app_crashes{app_id}", user_key: uid, exclude: [secret.key, note]}
- {name: absent, plugin: crashes, collection: "nothing{app_id}", user_key: uid}
"""


@pytest.fixture
def small(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Exporter]:
    """An app "x" of two collections, and a catalogue of three."""
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    filled = make_database(
        {
            "app_usersx": [{"_id": 1, "uid": "a", "n": 1}, {"_id": 2, "uid": "b", "_col": "mine"}],
            "app_crashesx": [
                {"_id": n, "uid": "ab"[n % 2], "note": "n", "secret": {"key": 1, "k": 2}} for n in range(9)
            ],
        }
    )
    with Exporter(filled.model_copy(update={"catalog": tmp_path / "catalog.yaml"})) as exporter:
        yield exporter


def test_writes_during_an_export_do_not_change_it(small: Exporter, tmp_path: Path) -> None:
    request = small.submit(NewRequest("x", ["a"]), run_here=True)
    database = small.client[small.settings.mongo_database]
    plan = small.plan(str(request.batch_id))
    small.read_slice(plan, "users")
    database["app_usersx"].insert_one({"_id": 3, "uid": "a"})
    database["app_crashesx"].delete_many({"_id": {"$gt": 1}})
    database["app_crashesx"].insert_many([{"_id": n, "uid": "a"} for n in range(100, 200)])
    database["app_crashesx"].update_one({"_id": 0}, {"$set": {"uid": "b"}})
    database["nothingx"].insert_one({"uid": "a"})
    for entry in small.catalog.entries:
        small.read_slice(plan, entry.name)
    (outcome,) = small.package(plan, tmp_path / "a.json")
    assert outcome.error is None
    ids = [(document["_col"], document["_id"]) for document in json.loads((tmp_path / "a.json").read_bytes())]
    assert ids == [("app_usersx", 1), *(("app_crashesx", n) for n in (0, 2, 4, 6, 8))]


def test_the_manifest_tells_exported_empty_and_absent_apart(small: Exporter, tmp_path: Path) -> None:
    small.client[small.settings.mongo_database]["app_crashesx"].delete_many({"uid": "b"})
    manifest = export(small, NewRequest("x", ["b"]), tmp_path / "b.json")
    outcomes = {report.name: (report.outcome, report.documents_written) for report in manifest.collections}
    assert outcomes == {"users": ("exported", 1), "crashes": ("empty", 0), "absent": ("absent", 0)}


def test_the_manifest_proves_the_file(small: Exporter, tmp_path: Path) -> None:
    manifest = export(small, NewRequest("x", ["a"]), tmp_path / "a.json")
    data = (tmp_path / "a.json").read_bytes()
    assert manifest == Manifest.model_validate_json((tmp_path / "a.json.manifest.json").read_bytes())
    assert (manifest.file.bytes, manifest.file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert manifest.moment.point_in_time
    for report in manifest.collections:
        section = data[report.offset : report.offset + report.bytes]
        assert hashlib.sha256(section).hexdigest() == report.sha256
        assert section.count(report.collection.encode()) == report.documents_written
    crashes = manifest.collections[1]
    assert (crashes.first_id, crashes.last_id) == ({"$numberInt": "0"}, {"$numberInt": "8"})


def test_a_field_called_like_the_tag_is_kept_and_counted(small: Exporter, tmp_path: Path) -> None:
    manifest = export(small, NewRequest("x", ["b"]), tmp_path / "b.json")
    first = json.loads((tmp_path / "b.json").read_bytes())[0]
    assert first == {"_col": "app_usersx", "_id": 2, "uid": "b", "__col": "mine"}
    assert [report.renamed_col_fields for report in manifest.collections] == [1, 0, 0]


def test_excluded_fields_never_leave_and_are_named(small: Exporter, tmp_path: Path) -> None:
    manifest = export(small, NewRequest("x", ["a"]), tmp_path / "a.json")
    crashes = [document for document in json.loads((tmp_path / "a.json").read_bytes()) if "secret" in document]
    assert [document["secret"] for document in crashes] == [{"k": 2}] * 5
    assert not any("note" in document for document in crashes)
    assert [(redaction.field, redaction.values) for redaction in manifest.collections[1].redacted] == [
        ("secret.key", 5),
        ("note", 5),
    ]


def test_users_of_one_request_share_a_file_and_no_document_is_doubled(small: Exporter, tmp_path: Path) -> None:
    small.client[small.settings.mongo_database]["app_usersx"].insert_one({"_id": 9, "uid": ["a", "b"]})
    manifest = export(small, NewRequest("x", ["a", "b", "a"]), tmp_path / "both.json")
    ids = [document["_id"] for document in json.loads((tmp_path / "both.json").read_bytes())]
    assert sorted(ids) == sorted([1, 2, 9, *range(9)])
    assert manifest.users.uids == ("a", "b")


def test_a_slice_that_lost_a_document_fails_the_request(small: Exporter, tmp_path: Path) -> None:
    request = small.submit(NewRequest("x", ["a"]), run_here=True)
    plan = small.plan(str(request.batch_id))
    for entry in small.catalog.entries:
        small.read_slice(plan, entry.name)
    key = index_key(plan.batch_id, "crashes")
    with small.storage.open(key) as file:
        index = json.loads(file.read())
    owned = index["owned"][request.id]
    first_document = 60
    owned.update(documents=owned["documents"] - 1, ranges=[[first_document, owned["bytes"] - first_document]])
    with small.storage.create(key) as file:
        file.write(json.dumps(index).encode())
        file.commit()
    (outcome,) = small.package(plan, tmp_path / "a.json")
    assert outcome.error is not None
    assert "crashes" in str(outcome.error) or "slice" in str(outcome.error)
    assert small.requests.get(request.id).status == "failed"
    assert not (tmp_path / "a.json").exists()


def test_a_file_that_changes_on_the_way_to_the_disk_is_not_published(
    small: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful:
        """Writes JSON Lines, but of one collection only the first document of each piece."""

        def __init__(self, sink: Any, options: Any) -> None:
            self._writer = FORMATS["jsonl"].writer(sink, options)
            self.end_collection, self.close = self._writer.end_collection, self._writer.close

        def write(self, collection: str, piece: Piece) -> None:
            self._writer.write(collection, Piece(piece.first, [0]) if collection == "app_crashesx" else piece)

    def lose_a_line(self: Any, sink: Any, options: Any, survey: Any, about: Any = None) -> Forgetful:
        return Forgetful(sink, options)

    monkeypatch.setattr(JsonArray, "writer", lose_a_line)
    monkeypatch.setattr(JsonArray, "count", lambda _, file: FORMATS["jsonl"].count(file))
    with pytest.raises(IncompleteError, match="in app_crashesx"):
        export(small, NewRequest("x", ["a"]), tmp_path / "a.json")
    assert not list(tmp_path.glob("a.json*"))
    assert small.requests.latest()[0].error_code == "incomplete"


def test_a_published_package_is_recorded_not_made_again(small: Exporter) -> None:
    """As after a crash between publishing and recording."""
    request = small.submit(NewRequest("x", ["a"]), run_here=True)
    plan = small.plan(str(request.batch_id))
    for entry in small.catalog.entries:
        small.read_slice(plan, entry.name)
    (first,) = small.package(plan)
    with small.requests._engine.begin() as connection:
        connection.execute(update(export_requests).values(status="running"))
    small.discard_slices(plan.batch_id)  # so that it could not be made again
    (second,) = small.package(plan)
    assert second.manifest == first.manifest
    assert small.requests.get(request.id).status == "completed"


def test_a_request_that_was_moved_on_is_neither_published_nor_failed(small: Exporter) -> None:
    request = small.submit(NewRequest("x", ["a"]), run_here=True)
    plan = small.plan(str(request.batch_id))
    for entry in small.catalog.entries:
        small.read_slice(plan, entry.name)
    outcomes = small.package(plan)
    with small.requests._engine.begin() as connection:
        connection.execute(update(export_requests).values(batch_id="another"))
    assert list(outcomes) == []
    assert small.requests.get(request.id).status == "running"
    assert not list(Path(small.settings.storage_root).rglob("export.json"))


def test_an_aged_plan_is_made_anew_with_all_its_slices(small: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    request = small.submit(NewRequest("x", ["a"]), run_here=True)
    plan = small.plan(str(request.batch_id))
    small.read_slice(plan, "users")
    assert small.plan(plan.batch_id) == plan
    monkeypatch.setattr("export_pipeline.exporter.PLAN_IS_FRESH", timedelta(0))
    again = small.plan(plan.batch_id)
    assert again.planned_at > plan.planned_at
    assert not small.storage.exists(index_key(plan.batch_id, "users"))


def test_a_standalone_server_is_refused_unless_a_setting_allows_it(tmp_path: Path) -> None:
    with embedded_mongo(replica_set=False) as uri:
        settings = Settings(home=tmp_path / "home", mongo_uri=uri, mongo_database="alone")
        with Exporter(settings) as strict:
            strict.client["alone"]["app_usersx"].insert_one({"uid": "a"})
            with pytest.raises(PointInTimeError, match="EXPORT_PIPELINE_REQUIRE_POINT_IN_TIME=false"):
                export(strict, NewRequest("x", ["a"]), tmp_path / "a.json")
        with Exporter(settings.model_copy(update={"require_point_in_time": False})) as lax:
            manifest = export(lax, NewRequest("x", ["a"]), tmp_path / "a.json")
    assert not manifest.moment.point_in_time
    assert manifest.moment.cluster_time is None
    assert manifest.totals.documents_written == 1
