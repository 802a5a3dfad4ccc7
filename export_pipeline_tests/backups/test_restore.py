"""Round trips: what is restored is what was backed up, byte for byte, with its indexes and options."""

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from click.testing import CliRunner
from pymongo import MongoClient
from pymongo.errors import WriteError

from export_pipeline.backups.backup import Backups
from export_pipeline.backups.erase import Erasures
from export_pipeline.backups.restore import DocumentsLostError, Restore, RestoreReport
from export_pipeline.backups.restore_load import Loading, compare, load_part
from export_pipeline.backups.restore_plan import TargetRefusedError, Wish
from export_pipeline.backups.restore_source import BackupRefusedError, find_backup
from export_pipeline.backups.restore_target import PROGRESS, RestoreFailedError, RestoreTarget
from export_pipeline.backups.structure import read_structures
from export_pipeline.cli import main
from export_pipeline.demo.specimens import SPECIMENS, join
from export_pipeline.encryption.age import new_identity, parse_identities
from export_pipeline.encryption.keys import WrongKeyError
from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.exporter import Exporter
from export_pipeline.mongo.bson_stream import documents
from export_pipeline.packages.layers import NO_KEYS, Keys
from export_pipeline.requests.backups import NewBackup
from export_pipeline.settings import Settings
from export_pipeline_tests.formats.hostile_documents import CASES, IDS

APP, NEW_APP = "64b1f0a2c3d4e5f60718293a", "64b1f0a2c3d4e5f60718293b"
SECRET_KEY = "x" * 32
SMALL_PARTS = 1_000_000

CATALOG = """
version: 1
identity: {collection: "app_users{app_id}", uid: uid, merged_uids: merged_uid, device_ids: did}
shared: [{collection: apps, app_key: _id, key_type: objectId}, {collection: members, app_key: access.app}]
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid}
- {name: chats, plugin: chats, collection: "chats{app_id}", user_key: members}
- {name: devices, plugin: devices, collection: "devices{app_id}", user_key: device, key_holds: device_id}
- {name: measured, plugin: events, collection: "measured{app_id}", user_key: uid}
"""

Client = MongoClient[dict[str, Any]]
BackUp = Callable[..., str]


@pytest.fixture
def app(mongo_client: Client, settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Exporter]:
    """An installation on a database of its own that holds an app with a collection of every kind."""
    database = f"r{abs(hash(request.node.nodeid)) % 10**12}"
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    own = {"mongo_database": database, "catalog": tmp_path / "catalog.yaml", "secret_key": SECRET_KEY}
    fill(mongo_client, database)
    with Exporter(Settings(**settings.model_dump() | own)) as exporter:
        yield exporter
    for name in mongo_client.list_database_names():
        if name.startswith(database):
            mongo_client.drop_database(name)


def fill(client: Client, name: str) -> None:
    """Make the app: every type of BSON, ids of every type, all that a collection can be told to do."""
    database = client[name]
    rng = random.Random(7)
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    database[f"app_users{APP}"].insert_many(
        [{"_id": n, "uid": f"u{n}", "did": [f"d{n}"], "merged_uid": [f"old{n}"]} for n in range(40)]
    )
    events = database[f"events{APP}"]
    events.insert_many(
        [
            {
                "_id": f"{rng.getrandbits(96):024x}",
                "uid": f"u{n % 40}",
                "ts": Int64(n),
                "note": "x" * rng.randrange(2400),
            }
            for n in range(3000)
        ]
    )
    events.create_index([("uid", 1), ("ts", -1)])
    events.create_index("ts", unique=True, partialFilterExpression={"ts": {"$gt": -1}})
    events.create_index("note", hidden=True, collation={"locale": "de", "strength": 2})
    hostile = database[f"hostile{APP}"]
    hostile.insert_many(RawBSONDocument(case.document(n)) for n, case in enumerate(CASES.values()))
    hostile.insert_many(join({"_id": f"specimen {name}"}, specimen) for name, specimen in SPECIMENS.items())
    database[f"ids{APP}"].insert_many([{"_id": id_} for id_ in IDS])
    database.create_collection(f"checked{APP}", collation={"locale": "sv"})
    database[f"checked{APP}"].insert_many([{"_id": f"ö{n}", "wrong": True} for n in range(9)])
    database.command("collMod", f"checked{APP}", validator={"right": {"$exists": True}}, validationAction="error")
    database[f"expiring{APP}"].insert_many([{"_id": n, "at": datetime.now(UTC)} for n in range(9)])
    database[f"expiring{APP}"].create_index("at", expireAfterSeconds=10**8)
    database.create_collection(f"capped{APP}", capped=True, size=100_000, max=500)
    database[f"capped{APP}"].insert_many([{"_id": rng.getrandbits(60), "n": n} for n in range(600)])
    series = {"timeField": "at", "metaField": "uid", "granularity": "minutes"}
    database.create_collection(f"measured{APP}", timeseries=series)
    measured = [{"at": long_ago + timedelta(minutes=n), "uid": f"u{n % 40}", "n": n} for n in range(400)]
    database[f"measured{APP}"].insert_many([*measured, *measured[:9]])
    clustered = {"key": {"_id": 1}, "unique": True, "name": "by id"}
    database.create_collection(f"clustered{APP}", clusteredIndex=clustered)
    database[f"clustered{APP}"].insert_many([{"_id": n} for n in range(50)])
    database.create_collection(f"empty_{APP}")
    database.create_collection(f"wider_{APP}", viewOn=f"view_{APP}", pipeline=[{"$match": {"n": {"$gt": 1}}}])
    stages = [{"$lookup": {"from": f"events{APP}", "localField": "uid", "foreignField": "uid", "as": "e"}}]
    database.create_collection(f"view_{APP}", viewOn=f"app_users{APP}", pipeline=stages)
    database["apps"].insert_many([{"_id": ObjectId(APP), "name": "mine"}, {"_id": ObjectId(), "name": "another"}])
    access: list[Any] = [[{"app": APP}, {"app": "other"}], {"app": APP}, {"app": "other"}]
    database["members"].insert_many([{"_id": n, "access": member} for n, member in enumerate(access)])
    database[f"chats{APP}"].insert_many(
        [{"_id": 1, "members": ["u1", "u2"]}, {"_id": 2, "members": ["u1", "old1"]}, {"_id": 3, "members": ["u3"]}]
    )
    database[f"devices{APP}"].insert_many([{"_id": n, "device": f"d{n}"} for n in range(5)])


@pytest.fixture
def back_up(app: Exporter) -> BackUp:
    """Return a function that backs the app up and gives the backup's id."""

    def back_up(app_id: str = APP, base: str | None = None, **form: Any) -> str:
        backups = Backups(app)
        form = {"part_bytes": SMALL_PARTS, **form}
        request = backups.submit(NewBackup(app_id, form, base=base), run_here=True)
        backups.run(request)
        return request.id

    return back_up


def restore(app: Exporter, backup: str, to: str, *, keys: Keys = NO_KEYS, **wish: Any) -> RestoreReport:
    restoring = Restore(app, find_backup(app, backup), app.client, Wish([to], **wish), keys)
    report = restoring.run()
    restoring.forget()
    return report


def contents(client: Client, database: str, name: str, kind: str) -> list[bytes]:
    """A collection's documents in its order; of one without an order, sorted."""
    order: Any = None if kind in ("timeseries", "view") else {"$natural" if kind == "capped" else "_id": 1}
    batches: Any = client[database][name].find_raw_batches({}, sort=order)
    found = [document for batch in batches for document in documents(batch)]
    if kind == "timeseries":
        return sorted(bson.encode(dict(sorted(bson.decode(document).items()))) for document in found)
    return sorted(map(_in_one_order, found)) if kind == "view" else found


def _in_one_order(document: bytes) -> bytes:
    """What a $lookup joins is in no order."""
    shown = bson.decode(document)
    joined = {"e": sorted(map(bson.encode, shown["e"]))} if "e" in shown else {}
    return bson.encode({**shown, **joined})


def assert_same(client: Client, before: str, after: str, rename: Callable[[str], str] = lambda name: name) -> None:
    """Compare all of the app's collections, with their options and indexes."""
    old, new = read_structures(client, before), read_structures(client, after)
    shared = {"apps", "members"}
    assert {rename(name) for name in old} - shared == set(new) - shared
    for name, structure in old.items():
        if name not in shared:
            if structure.kind != "view":
                assert new[rename(name)].fingerprint == structure.fingerprint, name
            assert contents(client, after, rename(name), structure.kind) == contents(
                client, before, name, structure.kind
            ), name


@pytest.mark.parametrize(
    "form",
    [
        {"format": "bson"},
        {"format": "bson", "compression": "zstd"},
        {"format": "jsonl", "compression": "gzip"},
        {"format": "parquet"},
    ],
    ids=lambda form: "-".join(form.values()),
)
def test_a_restored_app_is_the_one_that_was_backed_up(app: Exporter, back_up: BackUp, form: dict[str, str]) -> None:
    of = app.settings.mongo_database
    hostile = app.client[of][f"hostile{APP}"]
    if form["format"] != "bson":  # what no JSON can tell apart
        kept = {name for name in SPECIMENS if name != "array_with_odd_keys"}
        hostile.delete_many({"_id": {"$nin": [f"specimen {name}" for name in kept]}})
    report = restore(app, back_up(**form), f"{of}_copy")
    assert_same(app.client, of, f"{of}_copy")
    assert all(collection.exact for collection in report.collections)
    assert report.documents == sum(collection.documents for collection in report.collections) > 4000
    assert (report.left_out, report.continued, report.dry_run) == (0, False, False)
    copied = app.client[f"{of}_copy"]
    assert [document["name"] for document in copied["apps"].find()] == ["mine"]
    assert [document["_id"] for document in copied["members"].find()] == [0, 1]
    assert PROGRESS not in copied.list_collection_names()
    with pytest.raises(WriteError, match="failed validation"):
        copied[f"checked{APP}"].insert_one({})


def test_what_extended_json_cannot_hold_is_told(app: Exporter, back_up: BackUp) -> None:
    of = app.settings.mongo_database
    report = restore(app, back_up(format="jsonl"), f"{of}_copy")
    assert [each.collection for each in report.collections if not each.exact] == [f"hostile{APP}"]


def test_a_dry_run_writes_nothing(app: Exporter, back_up: BackUp) -> None:
    to = f"{app.settings.mongo_database}_copy"
    report = Restore(app, find_backup(app, back_up()), app.client, Wish([to]), NO_KEYS).check()
    assert report.dry_run
    assert report.documents > 4000
    assert to not in app.client.list_database_names()


def test_an_incremental_backup_is_restored_with_the_files_of_its_base(app: Exporter, back_up: BackUp) -> None:
    of = app.settings.mongo_database
    base = back_up()
    app.client[of][f"events{APP}"].delete_many({"uid": "u7"})
    app.client[of][f"app_users{APP}"].update_one({"_id": 3}, {"$set": {"name": "new"}})
    restore(app, back_up(base=base), f"{of}_copy")
    assert_same(app.client, of, f"{of}_copy")


def test_the_apps_id_changes_on_the_way(app: Exporter, back_up: BackUp) -> None:
    of = app.settings.mongo_database
    restore(app, back_up(), f"{of}_copy", app_id=NEW_APP)
    assert_same(app.client, of, f"{of}_copy", lambda name: name.replace(APP, NEW_APP))
    copied = app.client[f"{of}_copy"]
    assert list(copied["apps"].find()) == [{"_id": ObjectId(NEW_APP), "name": "mine"}]
    assert list(copied["members"].find()) == [
        {"_id": 0, "access": [{"app": NEW_APP}, {"app": "other"}]},
        {"_id": 1, "access": {"app": NEW_APP}},
    ]
    shown = read_structures(app.client, f"{of}_copy")[f"view_{NEW_APP}"]
    assert shown.options["viewOn"] == f"app_users{NEW_APP}"
    assert shown.options["pipeline"][0]["$lookup"]["from"] == f"events{NEW_APP}"


def test_collections_can_be_left_out(app: Exporter, back_up: BackUp) -> None:
    of, backup = app.settings.mongo_database, back_up()
    report = restore(app, backup, f"{of}_copy", without=[f"events{APP}"])
    assert f"events{APP}" not in app.client[f"{of}_copy"].list_collection_names()
    assert report.without == (f"events{APP}",)
    with pytest.raises(BadInputError, match="is a view of what is left out"):
        restore(app, backup, f"{of}_other", without=[f"app_users{APP}"])
    with pytest.raises(BadInputError, match="holds no such collection"):
        restore(app, backup, f"{of}_other", without=["nonsense"])


def test_a_collection_that_is_not_what_was_loaded_is_found(
    app: Exporter, back_up: BackUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, backup = app.settings.mongo_database, back_up()

    def compare_changed(loading: Loading, *arguments: Any) -> None:
        if loading.collection.name == f"app_users{APP}":
            loading.collection.update_one({"_id": 3}, {"$set": {"uid": "U3"}})
        compare(loading, *arguments)

    monkeypatch.setattr("export_pipeline.backups.restore.compare", compare_changed)
    with pytest.raises(IncompleteError, match=f"{of}_copy.app_users{APP}: it does not hold the documents"):
        restore(app, backup, f"{of}_copy")


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize("name", ["app_users", "capped", "measured", "hostile"])
def test_what_a_crash_of_the_server_took_is_loaded_anew(
    app: Exporter, back_up: BackUp, monkeypatch: pytest.MonkeyPatch, restarted: bool, name: str
) -> None:
    of, backup = app.settings.mongo_database, back_up()
    crashed: list[str] = []

    def compare_after_crash(loading: Loading, *arguments: Any) -> None:
        if loading.collection.name == f"{name}{APP}" and not crashed:
            crashed.append(name)
            if name in ("capped", "measured"):
                loading.collection.drop()
            else:
                loading.collection.delete_one({})
        compare(loading, *arguments)

    monkeypatch.setattr("export_pipeline.backups.restore.compare", compare_after_crash)
    with monkeypatch.context() as patched:
        if restarted:
            patched.setattr(RestoreTarget, "process", property(lambda _: object()))
        with pytest.raises(DocumentsLostError if restarted else IncompleteError, match=f"{name}{APP}: it does not"):
            restore(app, backup, f"{of}_copy")
    assert restore(app, backup, f"{of}_copy").continued
    assert_same(app.client, of, f"{of}_copy")


def test_what_a_former_attempt_lost_is_loaded_anew_too(
    app: Exporter, back_up: BackUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, backup = app.settings.mongo_database, back_up()

    def refuse(*_: Any) -> None:
        raise RestoreFailedError("for the test")

    with monkeypatch.context() as patched:
        patched.setattr("export_pipeline.backups.restore.compare", refuse)
        with pytest.raises(RestoreFailedError, match="for the test"):
            restore(app, backup, f"{of}_copy", threads=1)
    lost = app.client[f"{of}_copy"][PROGRESS].find_one({"_id": {"$regex": "^part .*app_users"}})
    assert lost is not None
    app.client[f"{of}_copy"][f"app_users{APP}"].delete_one({})
    with pytest.raises(DocumentsLostError):
        restore(app, backup, f"{of}_copy")
    restore(app, backup, f"{of}_copy")
    assert_same(app.client, of, f"{of}_copy")


# Refused before anything is written.


@pytest.mark.parametrize("again", [True, False])
def test_what_is_there_already_is_known_whatever_its_id_is(app: Exporter, back_up: BackUp, again: bool) -> None:
    restoring = Restore(app, find_backup(app, back_up()), app.client, Wish([app.settings.mongo_database]), NO_KEYS)
    (target,) = [target for target in restoring._loaded if target.source.name == f"ids{APP}"]
    (part,) = target.source.parts
    loading = restoring._loading(target)
    if again:
        loaded = load_part(restoring._source, loading, part, again=True, on_documents=lambda _: None)
        assert loaded.documents == len(IDS)
        compare(loading, [loaded], lambda _: None)
    else:
        with pytest.raises(RestoreFailedError, match="another program writes to it"):
            load_part(restoring._source, loading, part, again=False, on_documents=lambda _: None)


def part_of(app: Exporter, backup: str, collection: str, number: int = 0) -> Path:
    root = Path(app.settings.storage_root)
    return root / "backups" / APP / backup / f"{collection}{APP}" / f"part-{number:05}.bson"


def assert_refused(
    app: Exporter, backup: str, match: str, error: type[Exception] = IncompleteError, **how: Any
) -> None:
    to = f"{app.settings.mongo_database}_copy"
    with pytest.raises(error, match=match):
        restore(app, backup, to, **how)
    assert to not in app.client.list_database_names()


def test_a_part_that_is_not_what_was_written_is_refused_and_named(app: Exporter, back_up: BackUp) -> None:
    backup = back_up()
    part, other = part_of(app, backup, "events", 1), part_of(app, backup, "events", 2)
    whole, named = part.read_bytes(), "events.*/part-00001.bson"
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    part.write_bytes(damaged)
    assert_refused(app, backup, f"{named}.* damaged")
    part.write_bytes(whole[:-1])
    assert_refused(app, backup, f"{named}.* bytes and not")
    part.write_bytes(other.read_bytes())
    other.write_bytes(whole)
    assert_refused(app, backup, "events.*/part-0000[12].bson.* another one")
    other.write_bytes(part.read_bytes())
    part.unlink()
    assert_refused(app, backup, f"{named}.* missing")
    part.write_bytes(whole)
    extra = part_of(app, backup, "app_users", 1)
    extra.write_bytes(whole)
    assert_refused(app, backup, "app_users.*/part-00001.bson.* none of this backup's")
    extra.unlink()
    restore(app, backup, f"{app.settings.mongo_database}_copy")


def test_a_wrong_key_is_refused_and_the_right_one_opens_all(app: Exporter, back_up: BackUp) -> None:
    of, mine = app.settings.mongo_database, new_identity()
    backup = back_up(recipients=[str(mine.recipient)])
    assert_refused(app, backup, "encrypted", BackupRefusedError)
    assert_refused(app, backup, "part-", WrongKeyError, keys=Keys(parse_identities(new_identity().secret)))
    restore(app, backup, f"{of}_copy", keys=Keys(parse_identities(mine.secret)))
    assert_same(app.client, of, f"{of}_copy")


def test_another_version_and_another_format_are_refused(app: Exporter, back_up: BackUp) -> None:
    backup = back_up(format="csv", part_bytes=SMALL_PARTS * 100)
    assert_refused(app, backup, "csv, does not keep", BackupRefusedError)
    backup = back_up()
    manifest = part_of(app, backup, "events").parents[1] / "manifest.json"
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(said | {"format_version": 2}))
    assert_refused(app, backup, "another version")
    manifest.write_text(json.dumps(said | {"server_version": "99.0.0"}))
    assert_refused(app, backup, "older than that of the backup", TargetRefusedError)
    manifest.unlink()
    assert_refused(app, backup, "no whole backup", BadInputError)


def test_a_target_with_documents_or_another_structure_is_refused_and_left_alone(app: Exporter, back_up: BackUp) -> None:
    backup, to = back_up(), f"{app.settings.mongo_database}_copy"
    target = app.client[to]
    target[f"events{APP}"].insert_one({"_id": "mine"})
    with pytest.raises(TargetRefusedError, match=f"{to}.events{APP}: .*documents already"):
        restore(app, backup, to)
    target[f"events{APP}"].delete_many({})
    with pytest.raises(TargetRefusedError, match=f"{to}.events{APP}: .*other options, indexes"):
        restore(app, backup, to)
    assert target.list_collection_names() == [f"events{APP}"]
    with pytest.raises(TargetRefusedError, match="documents already"):
        restore(app, backup, app.settings.mongo_database)


def test_empty_collections_of_the_same_structure_are_filled(app: Exporter, back_up: BackUp) -> None:
    of = app.settings.mongo_database
    backup = back_up()
    restore(app, backup, f"{of}_copy")
    for name, structure in read_structures(app.client, f"{of}_copy").items():
        if structure.kind == "collection":
            app.client[f"{of}_copy"][name].delete_many({})
        elif structure.kind != "view":
            app.client[f"{of}_copy"].drop_collection(name)
    restore(app, backup, f"{of}_copy")
    assert_same(app.client, of, f"{of}_copy")


# Who was erased stays erased.


def test_users_who_were_erased_since_the_backup_are_not_brought_back(app: Exporter, back_up: BackUp) -> None:
    of = app.settings.mongo_database
    backup = back_up()
    erasures = Erasures(app)
    erasures.confirm(erasures.count(APP, ["u1"], "ann").id, APP, ["u1"], "ann")
    report = restore(app, backup, f"{of}_copy")
    assert_same(app.client, of, f"{of}_copy")
    left_out = {each.collection: (each.left_out, each.detached) for each in report.collections if each.left_out}
    assert left_out == {
        f"app_users{APP}": (1, 0),
        f"events{APP}": (75, 0),
        f"chats{APP}": (1, 1),
        f"devices{APP}": (1, 0),
        f"measured{APP}": (11, 0),
    }
    assert report.erased_ids == 3
    assert restore(app, back_up(), f"{of}_later").documents == report.documents


def test_they_stay_erased_in_another_installation_and_under_another_app_id(
    app: Exporter, back_up: BackUp, tmp_path: Path
) -> None:
    of = app.settings.mongo_database
    backup = back_up()
    erasures = Erasures(app)
    erasures.confirm(erasures.count(APP, ["u1"], "ann").id, APP, ["u1"], "ann")
    root = app.settings.storage_root
    elsewhere = app.settings.model_copy(update={"home": tmp_path / "other", "storage": None})
    with Exporter(elsewhere) as other:
        folder = f"{root}/backups/{APP}/{backup}"
        report = restore(other, folder, f"{of}_copy", app_id=NEW_APP)
        assert report.left_out == 89
        assert_same(app.client, of, f"{of}_copy", lambda name: name.replace(APP, NEW_APP))
    keyless = Exporter(elsewhere.model_copy(update={"secret_key": None}))
    with keyless, pytest.raises(BadInputError, match="EXPORT_PIPELINE_SECRET_KEY"):
        restore(keyless, folder, f"{of}_other")
    assert f"{of}_other" not in app.client.list_database_names()


def test_what_only_a_hook_could_sift_is_refused_once_somebody_was_erased(app: Exporter, back_up: BackUp) -> None:
    backup, of = back_up(), app.settings.mongo_database
    erasures = Erasures(app)
    erasures.confirm(erasures.count(APP, ["u1"], "ann").id, APP, ["u1"], "ann")
    catalog = Path(str(app.settings.catalog))
    catalog.write_text(CATALOG.replace("user_key: members}", 'hook: "json:loads"}'))
    with Exporter(app.settings) as hooked:
        with pytest.raises(BackupRefusedError, match=f"chats{APP}: .*only a hook"):
            restore(hooked, backup, f"{of}_copy")
        assert restore(hooked, backup, f"{of}_copy", without=[f"chats{APP}"]).left_out == 88


def test_the_command_line_checks_restores_and_refuses(
    app: Exporter, back_up: BackUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, backup = app.settings, back_up()
    to = f"{settings.mongo_database}_copy"
    monkeypatch.setenv("DAGSTER_HOME", str(settings.home))
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_URI", settings.mongo_uri.get_secret_value())
    monkeypatch.setenv("EXPORT_PIPELINE_MONGO_DATABASE", settings.mongo_database)
    monkeypatch.setenv("EXPORT_PIPELINE_CATALOG", str(settings.catalog))

    def run(*arguments: str, exit_code: int = 0) -> Any:
        result = CliRunner().invoke(main, ["restore", *arguments])
        assert result.exit_code == exit_code, result.output
        return result

    assert "Nothing is written" in run(backup, "--to-database", to, "--dry-run").stdout
    uri = settings.mongo_uri.get_secret_value()
    report = json.loads(run(backup, "--to-database", to, "--mongo-uri", uri, "--json").stdout)
    assert (report["backup_id"], report["dry_run"]) == (backup, False)
    assert "documents already" in run(backup, "--to-database", to, exit_code=2).stderr
    assert "no whole backup" in run("0190", "--to-database", to, exit_code=2).stderr
    assert "name one database" in run(backup, "--to-database", "a", "--to-database", "b", exit_code=2).stderr
