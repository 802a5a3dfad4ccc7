"""Whole backups of small databases, from the request to the sealed manifest."""

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database

from export_pipeline.backups import backup as backup_module
from export_pipeline.backups.backup import LATEST, Backups
from export_pipeline.backups.content import content_sha256
from export_pipeline.backups.manifest import BackedUpCollection, BackupManifest
from export_pipeline.backups.parts import open_content, part_format
from export_pipeline.backups.removal import backup_folder, storage_of
from export_pipeline.backups.verify import verify_backup
from export_pipeline.backups.write import write_part
from export_pipeline.encryption.age import new_identity
from export_pipeline.errors import BadInputError, IncompleteError, PointInTimeError, UnknownAppError
from export_pipeline.installation import Installation
from export_pipeline.mongo.bson_stream import ANYTHING
from export_pipeline.mongo.connection import SnapshotTooOldError
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.packages.layers import NO_KEYS, Keys
from export_pipeline.requests.backups import BackupUnderWayError, NewBackup
from export_pipeline.requests.batches import plan_batches
from export_pipeline.requests.models import Request
from export_pipeline.settings import Settings

Mongo = MongoClient[dict[str, Any]]
APP, OTHER = "652f1a7e9c3b4d0012ab34c1", "652f1a7e9c3b4d0012ab34c2"

CATALOG = """\
version: 1
collections:
  - {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
  - {name: log, plugin: log, collection: "log{app_id}", user_key: uid, time_field: ts, time_unit: ms, append_only: true}
shared:
  - {collection: apps, app_key: _id, key_type: objectId}
  - {collection: notes, app_key: app_id}
"""
OF_EVERY_TYPE: list[dict[str, Any]] = [
    {"_id": key, "n": [{"deep": [1, None, {"x": 1.5}]}], "when": datetime(2026, 1, 1, tzinfo=UTC)}
    for key in (MinKey(), None, float("nan"), 5, Int64(2**60), Decimal128("7.50"), "ä", {"a": 1}, True, MaxKey())
] + [{"_id": ObjectId(), "r": Regex("a", "i"), "t": Timestamp(5, 1), "b": b"\0\1", "": "no name"}]


@pytest.fixture
def database(mongo_client: Mongo) -> Iterator[Database[dict[str, Any]]]:
    mongo_client.drop_database("backed_up")
    yield mongo_client["backed_up"]
    mongo_client.drop_database("backed_up")


@pytest.fixture
def installation(settings: Settings, tmp_path: Path, database: Database[dict[str, Any]]) -> Iterator[Installation]:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    settings = settings.model_copy(update={"mongo_database": database.name, "catalog": tmp_path / "catalog.yaml"})
    with Installation(settings) as installation:
        yield installation


@pytest.fixture
def backups(installation: Installation) -> Backups:
    return Backups(installation)


@pytest.fixture
def app(database: Database[dict[str, Any]]) -> Database[dict[str, Any]]:
    """An app with a collection of each kind, beside another app."""
    for app_id in (APP, OTHER):
        database[f"app_users{app_id}"].insert_many(
            [{"_id": number, "uid": f"u{number}", "text": "x" * 900} for number in range(3000)]
        )
        database[f"app_users{app_id}"].create_index("uid", unique=True)
        database[f"odd {app_id}"].insert_many(OF_EVERY_TYPE)
        database.create_collection(f"ring{app_id}", capped=True, size=8192)
        database[f"ring{app_id}"].insert_many([{"_id": -number} for number in range(5)])
        database.create_collection(f"weather{app_id}", timeseries={"timeField": "t", "metaField": "m"})
        database[f"weather{app_id}"].insert_many(
            [{"t": datetime(2026, 1, 1, 0, number, tzinfo=UTC), "m": "here", "v": number} for number in range(9)]
        )
        database.create_collection(f"shown{app_id}", viewOn=f"app_users{app_id}", pipeline=[{"$match": {"uid": "u1"}}])
        database.create_collection(f"empty{app_id}", validator={"n": {"$gt": 1}})
    database["apps"].insert_many([{"_id": ObjectId(APP), "name": "mine"}, {"_id": ObjectId(OTHER), "name": "theirs"}])
    database["notes"].insert_many([{"_id": n, "app_id": APP if n % 2 else OTHER} for n in range(10)])
    database["members"].insert_one({"_id": 1})
    return database


def made(
    backups: Backups, app_id: str = APP, base: str | None = None, processes: int = 1, **form: Any
) -> BackupManifest:
    row = backups.submit(NewBackup(app_id, form, base=base), run_here=True)
    return backups.run(row, processes)


def row_of(backups: Backups, manifest: BackupManifest) -> Request:
    return backups.requests.get(manifest.backup_id)


def stored(installation: Installation, manifest: BackupManifest, name: str, keys: Keys = NO_KEYS) -> bytes:
    """Return a collection's documents as the backup has them."""
    request = installation.requests.get(manifest.backup_id)
    storage, folder = storage_of(installation, request), backup_folder(request)
    collection = named(manifest, name)
    found = b""
    for part in collection.parts:
        held = f"{folder.rpartition('/')[0]}/{part.backup_id or manifest.backup_id}/{collection.folder}/{part.name}"
        with storage.open(held) as file:
            content = open_content(file, manifest.options, keys)
            found += b"".join(piece.data for piece in part_format(manifest.options.format).pieces(content))
    return found


def named(manifest: BackupManifest, name: str) -> BackedUpCollection:
    return next(each for each in manifest.collections if each.name == name)


def live(database: Database[dict[str, Any]], name: str, query: dict[str, Any] | None = None) -> bytes:
    collection: Any = database.get_collection(name, ANYTHING)
    return b"".join(document.raw for document in collection.find(query or {}, hint={"_id": 1}, sort={"_id": 1}))


@pytest.mark.parametrize("format_", ["bson", "jsonl", "parquet"])
def test_a_backup_holds_every_byte_of_the_app(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]], format_: str
) -> None:
    manifest = made(backups, format=format_, part_bytes=1_000_000)
    assert sorted(each.name for each in manifest.collections) == sorted(
        ["apps", "notes", *(f"{stem}{APP}" for stem in ("app_users", "odd ", "ring", "weather", "shown", "empty"))]
    )
    for name in (f"app_users{APP}", f"odd {APP}", f"ring{APP}"):
        query: dict[str, Any] = {}
        expected = live(app, name, query) if "ring" not in name else live_naturally(app, name)
        assert stored(installation, manifest, name) == expected
        content = named(manifest, name)
        assert content.content_sha256 == content_sha256(content.order, content.parts)
    assert stored(installation, manifest, "apps") == live(app, "apps", {"_id": ObjectId(APP)})
    assert stored(installation, manifest, "notes") == live(app, "notes", {"app_id": APP})
    assert len(bson.decode_all(stored(installation, manifest, f"weather{APP}"))) == 9
    assert named(manifest, f"shown{APP}").parts == named(manifest, f"empty{APP}").parts == ()
    assert len(named(manifest, f"app_users{APP}").parts) > 2
    assert manifest.moment.note is not None
    assert f"ring{APP}" in manifest.moment.note


def live_naturally(database: Database[dict[str, Any]], name: str) -> bytes:
    collection: Any = database.get_collection(name, ANYTHING)
    return b"".join(document.raw for document in collection.find())


def test_the_row_tells_how_it_went(installation: Installation, backups: Backups, app: Database[dict[str, Any]]) -> None:
    manifest = made(backups)
    row = row_of(backups, manifest)
    assert (row.status, row.kind, row.documents_done) == ("completed", "app_backup", manifest.totals.documents)
    assert row.result_uri is not None
    assert Path(row.result_uri).name == "manifest.json"
    folder = Path(row.result_uri).parent
    assert not (folder / "plan.json").exists()
    assert not (folder / "records").exists()
    metadata = json.loads((folder / f"app_users{APP}" / f"app_users{APP}.metadata.json").read_text())
    assert metadata["collectionName"] == f"app_users{APP}"
    assert [index["name"] for index in metadata["indexes"]] == ["_id_", "uid_1"]


@pytest.mark.parametrize(
    "form",
    [
        {"format": "bson", "compression": "zstd"},
        {"format": "jsonl", "compression": "gzip"},
        {"format": "csv"},
        {"format": "bson", "compression": "gzip", "sealed": True},
        {"format": "parquet", "sealed": True},
    ],
)
def test_every_form_verifies_and_stays_within_the_parts_size(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]], form: dict[str, Any]
) -> None:
    identity = new_identity()
    keys = Keys([identity]) if form.pop("sealed", False) else NO_KEYS
    if keys:
        form["recipients"] = [str(identity.recipient)]
    manifest = made(backups, part_bytes=1_000_000, **form)
    request = row_of(backups, manifest)
    verified = verify_backup(storage_of(installation, request), backup_folder(request), keys)
    assert verified.manifest == manifest
    assert verified.looked_inside
    assert all(part.file_bytes <= 1_000_000 for each in manifest.collections for part in each.parts)
    if form["format"] != "csv":
        assert stored(installation, manifest, f"odd {APP}", keys) == live(app, f"odd {APP}")


def test_processes_write_the_same_bytes(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]]
) -> None:
    one, two = made(backups, format="jsonl"), made(backups, format="jsonl", processes=2)
    figures = [
        [(part.name, part.file_sha256) for each in manifest.collections for part in each.parts]
        for manifest in (one, two)
    ]
    assert figures[0] == figures[1]


def test_all_apps_are_one_backup(backups: Backups, app: Database[dict[str, Any]]) -> None:
    manifest = made(backups, "*")
    assert {f"app_users{APP}", f"app_users{OTHER}", "apps", "notes"} < {each.name for each in manifest.collections}
    assert "members" not in {each.name for each in manifest.collections}
    assert named(manifest, "notes").documents_written == 10
    assert row_of(backups, manifest).result_uri is not None
    assert "/backups/all.apps/" in str(row_of(backups, manifest).result_uri)


def test_what_is_written_meanwhile_is_not_in_it(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = live(app, f"app_users{APP}")
    write = write_part

    def write_after_changes(*given: Any, **more: Any) -> Any:
        app[f"app_users{APP}"].delete_one({"_id": 7})
        app[f"app_users{APP}"].update_one({"_id": 8}, {"$set": {"text": "changed"}})
        app[f"app_users{APP}"].insert_one({"_id": ObjectId(), "uid": str(ObjectId())})
        return write(*given, **more)

    monkeypatch.setattr(backup_module, "write_part", write_after_changes)
    manifest = made(backups, part_bytes=1_000_000)
    assert live(app, f"app_users{APP}") != before
    assert stored(installation, manifest, f"app_users{APP}") == before


# Going on after a crash


def test_an_interrupted_backup_writes_only_what_is_missing(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = backups.submit(NewBackup(APP, {"part_bytes": 1_000_000}), run_here=True)
    plan = backups.plan(row)
    for part in plan.parts[:-2]:
        backups.write_part(row, plan, part)
    app[f"app_users{APP}"].delete_many({})  # the moment is what counts
    created: list[str] = []
    storage = installation.storage
    create = storage.create

    def note(key: str) -> Any:
        created.append(key)
        return create(key)

    monkeypatch.setattr(storage, "create", note)
    again = Backups(installation)
    manifest = again.run(row)
    assert again.requests.get(row.id).status == "completed"
    written = [key for key in created if "/part-" in key]
    assert len(written) <= 2
    assert manifest.totals.files > 4
    assert manifest.totals.documents == plan.expected + 5  # of the capped collection nobody knew before


def test_when_the_moment_is_gone_everything_is_read_anew(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = backups.submit(NewBackup(APP), run_here=True)
    plan = backups.plan(row)
    for part in plan.parts:
        backups.write_part(row, plan, part)
    app[f"app_users{APP}"].delete_many({"_id": {"$lt": 1000}})
    monkeypatch.setattr(Backups, "_can_still_read", lambda *_: False)
    manifest = backups.run(row)
    assert named(manifest, f"app_users{APP}").documents_written == 2000
    assert manifest.moment.cluster_time != f"{plan.cluster_time}"


def test_a_sealed_backup_is_not_made_again(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]]
) -> None:
    """The attempt that sealed it may have died before it removed its working files: with them it is not whole."""
    row = backups.submit(NewBackup(APP), run_here=True)
    plan = backups.plan(row)
    for part in plan.parts:
        backups.write_part(row, plan, part)
    sealed = backups.seal(row, plan)
    app[f"app_users{APP}"].drop()
    assert backups.run(row) == sealed
    verify_backup(installation.storage, backup_folder(row), NO_KEYS)


def test_a_part_that_was_damaged_before_the_seal_is_named_and_written_anew(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]]
) -> None:
    row = backups.submit(NewBackup(APP), run_here=True)
    plan = backups.plan(row)
    for part in plan.parts:
        backups.write_part(row, plan, part)
    file = next(Path(installation.settings.storage_root).rglob(f"app_users{APP}/part-00000.bson"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IncompleteError, match=f"app_users{APP}/part-00000.bson read back is not what was written"):
        backups.seal(row, plan)
    assert not file.with_name("manifest.json").exists()
    assert backups.run(row).totals.documents > 3000


def test_a_part_that_was_not_written_is_named(backups: Backups, app: Database[dict[str, Any]]) -> None:
    row = backups.submit(NewBackup(APP), run_here=True)
    with pytest.raises(IncompleteError, match="part-00000 was not written"):
        backups.seal(row, backups.plan(row))


def test_a_failure_is_recorded_and_lets_the_next_one_begin(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = backups.submit(NewBackup(APP), run_here=True)
    with pytest.raises(BackupUnderWayError):
        backups.submit(NewBackup(APP))

    def fail(*_: Any, **__: Any) -> Any:
        raise IncompleteError("a disk is failing")

    with monkeypatch.context() as patch:
        patch.setattr(backup_module, "write_part", fail)
        with pytest.raises(IncompleteError):
            backups.run(row)
    failed = backups.requests.get(row.id)
    assert (failed.status, failed.error_code) == ("failed", "incomplete")
    assert made(backups).totals.documents > 3000


def hashes(manifest: BackupManifest) -> list[tuple[str, str]]:
    return [(part.name, part.file_sha256) for each in manifest.collections for part in each.parts]


@pytest.mark.parametrize("at", [1, 2, 5, 9])
def test_killed_at_any_file_it_ends_with_the_same_bytes(
    installation: Installation,
    backups: Backups,
    app: Database[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    undisturbed = made(backups, part_bytes=1_000_000)
    row = backups.submit(NewBackup(APP, {"part_bytes": 1_000_000}), run_here=True)
    storage, files = installation.storage, count(1)
    create = storage.create

    def pull_the_plug(key: str) -> Any:
        if next(files) == at:
            raise KeyboardInterrupt
        return create(key)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "create", pull_the_plug)
        with pytest.raises(KeyboardInterrupt):
            backups.run(row)
    installation.requests.retry(row.id, "test")
    (batch,) = plan_batches(backups.requests.waiting(1), 1)
    assert installation.requests.claim(batch) == [row.id]
    manifest = Backups(installation).run(backups.requests.get(row.id))
    assert hashes(manifest) == hashes(undisturbed)
    assert verify_backup(storage, backup_folder(row)).manifest == manifest


def test_a_moment_that_is_lost_on_the_way_is_given_up_once(
    backups: Backups, app: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = count()

    def lose_the_first(*given: Any, **more: Any) -> Any:
        if next(lost) == 1:
            app[f"app_users{APP}"].delete_one({"_id": 0})
            raise SnapshotTooOldError("the server no longer has the chosen moment")
        return write_part(*given, **more)

    monkeypatch.setattr(backup_module, "write_part", lose_the_first)
    monkeypatch.setattr(Backups, "_can_still_read", lambda *_: False)
    assert named(made(backups), f"app_users{APP}").documents_written == 2999


def test_a_standalone_server_is_backed_up_where_that_is_allowed(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    with embedded_mongo(replica_set=False) as uri, MongoClient[dict[str, Any]](uri) as client:
        client["alone"][f"app_users{APP}"].insert_many([{"_id": number} for number in range(10)])
        changes = {"mongo_uri": SecretStr(uri), "mongo_database": "alone", "catalog": tmp_path / "catalog.yaml"}
        settings = settings.model_copy(update=changes)
        with Installation(settings) as strict, pytest.raises(PointInTimeError):
            made(Backups(strict))
        lenient = settings.model_copy(update={"require_point_in_time": False})
        with Installation(lenient) as installation:
            manifest = made(Backups(installation))
    assert not manifest.moment.point_in_time
    assert manifest.moment.cluster_time is None
    (users,) = manifest.collections
    assert (users.documents_expected, users.documents_written, users.point_in_time) == (None, 10, False)


# Incremental ones


def test_files_of_ranges_that_have_not_changed_are_the_bases(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]]
) -> None:
    first = made(backups, part_bytes=1_000_000)
    app[f"app_users{APP}"].update_one({"_id": 10}, {"$set": {"text": "changed"}})
    app[f"app_users{APP}"].insert_one({"_id": 3000, "uid": "new"})
    second = made(backups, base=LATEST, part_bytes=1_000_000)
    users = named(second, f"app_users{APP}")
    assert second.kind == "incremental"
    assert second.base is not None
    assert second.base.backup_id == first.backup_id
    assert users.method == "compared"
    assert 0 < sum(part.backup_id == first.backup_id for part in users.parts) < len(users.parts)
    assert stored(installation, second, f"app_users{APP}") == live(app, f"app_users{APP}")
    third = made(backups, base=second.backup_id, part_bytes=1_000_000)
    assert {part.backup_id for part in named(third, f"app_users{APP}").parts} == {first.backup_id, second.backup_id}
    assert third.needs == {first.backup_id, second.backup_id}
    assert stored(installation, third, f"app_users{APP}") == live(app, f"app_users{APP}")
    request = row_of(backups, third)
    verify_backup(storage_of(installation, request), backup_folder(request))


@pytest.fixture
def log(app: Database[dict[str, Any]]) -> Callable[[int, timedelta], None]:
    """Return a function that adds entries, of so long ago, to the log."""

    def add(count: int, ago: timedelta) -> None:
        at = int((datetime.now(UTC) - ago).timestamp() * 1000)
        app[f"log{APP}"].insert_many([{"_id": ObjectId(), "uid": "u1", "ts": Int64(at + n)} for n in range(count)])

    return add


def test_of_a_collection_that_is_only_added_to_the_new_is_read(
    installation: Installation,
    backups: Backups,
    app: Database[dict[str, Any]],
    log: Callable[[int, timedelta], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log(50, timedelta(days=3))
    app[f"log{APP}"].insert_many([{"_id": "no time"}, {"_id": "odd time", "ts": "yesterday"}])
    log(5, timedelta(minutes=1))
    first = made(backups)
    log(7, timedelta(minutes=1))
    log(2, timedelta(minutes=59))  # late, but not too late
    second = made(backups, base=LATEST)
    found = named(second, f"log{APP}")
    assert (found.method, found.documents_written, found.order) == ("since_time", 66, "unordered")
    assert [(part.documents, part.backup_id) for part in found.parts] == [(52, first.backup_id), (14, None)]
    assert sorted(bson.decode_all(stored(installation, second, f"log{APP}")), key=str) == sorted(
        bson.decode_all(live(app, f"log{APP}")), key=str
    )
    whole = made(backups)
    assert named(whole, f"log{APP}").content_sha256 == found.content_sha256


@pytest.mark.parametrize("late", [timedelta(days=2), None])
def test_where_more_than_the_new_has_changed_all_is_read(
    installation: Installation,
    backups: Backups,
    app: Database[dict[str, Any]],
    log: Callable[[int, timedelta], None],
    late: timedelta | None,
) -> None:
    log(50, timedelta(days=3))
    made(backups)
    if late is None:
        app[f"log{APP}"].delete_one({})
    else:
        log(1, late)
    second = made(backups, base=LATEST)
    found = named(second, f"log{APP}")
    assert found.method == "whole"
    assert len(stored(installation, second, f"log{APP}")) == len(live(app, f"log{APP}"))


def test_a_base_has_to_fit(backups: Backups, app: Database[dict[str, Any]]) -> None:
    first = made(backups)
    with pytest.raises(BadInputError, match="csv is a whole one each time"):
        made(backups, base=LATEST, format="csv")
    with pytest.raises(BadInputError, match="no such backup"):
        made(backups, OTHER, base=first.backup_id)
    with pytest.raises(BadInputError, match="has another format, compression, part size or recipients"):
        made(backups, base=first.backup_id, format="jsonl")
    assert made(backups, base=LATEST, format="jsonl").kind == "full"


# What is refused


def test_an_app_that_is_not_there_is_unknown(backups: Backups, app: Database[dict[str, Any]]) -> None:
    with pytest.raises(UnknownAppError):
        made(backups, "652f1a7e9c3b4d0012ab34ff")


def test_bson_parts_are_read_by_pymongo(
    installation: Installation, backups: Backups, app: Database[dict[str, Any]]
) -> None:
    made(backups)
    file = next(Path(installation.settings.storage_root).rglob(f"app_users{APP}/part-00000.bson"))
    assert len(list(bson.decode_file_iter(io.BytesIO(file.read_bytes())))) == 3000
