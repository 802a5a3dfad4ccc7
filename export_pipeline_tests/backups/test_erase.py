"""Erasing people: counted first, then gone from every collection, and nobody else with them."""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pymongo import MongoClient
from sqlalchemy import select, update

from export_pipeline.backups.erase import ErasureRefusedError, Erasures
from export_pipeline.backups.erase_documents import ErasableCollection
from export_pipeline.cli import main
from export_pipeline.errors import BadInputError, CatalogError, IncompleteError
from export_pipeline.exporter import Exporter
from export_pipeline.packages import removal
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.schema import erased_users, erasures
from export_pipeline_tests.conftest import MakeDatabase

SECRET_KEY = "x" * 32
UID = "secret-uid-a"

CATALOG = """
version: 1
identity: {collection: "app_users{app_id}", uid: uid, merged_uids: merged_uid, device_ids: did}
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- {name: events, plugin: events, collection: "events{app_id}", user_key: uid}
- {name: push, plugin: push, collection: "push_{app_id}", user_key: _id}
- {name: chats, plugin: chats, collection: "chats{app_id}", user_key: members}
- {name: mails, plugin: mails, collection: "mails{app_id}", user_key: to.uid}
- {name: devices, plugin: devices, collection: "devices{app_id}", user_key: device, key_holds: device_id}
- {name: absent, plugin: events, collection: "absent{app_id}", user_key: uid}
"""

Client = MongoClient[dict[str, Any]]
DOCUMENTS: dict[str, list[Any]] = {
    "app_usersx": [
        {"_id": 1, "uid": UID, "merged_uid": ["a-old"], "did": ["d1", "tablet"]},
        {"_id": 2, "uid": "b", "did": ["tablet"]},
        {"_id": 3, "uid": "c"},
    ],
    "eventsx": [{"_id": n, "uid": uid} for n, uid in enumerate([UID, "a-old", "b", UID, "B", [UID], [UID, "b"]])],
    "push_x": [{"_id": UID}, {"_id": "b"}],
    "chatsx": [
        {"_id": 1, "members": [UID, "b", "c"], "text": "hello"},
        {"_id": 2, "members": ["b", "c"]},
        {"_id": 3, "members": [UID, "a-old"]},
    ],
    "mailsx": [
        {"_id": 1, "to": [{"uid": UID, "name": "Ann"}, {"uid": "b", "name": "Bea"}]},
        {"_id": 2, "to": {"uid": "a-old"}},
        {"_id": 3, "to": [{"uid": "b"}]},
    ],
    "devicesx": [{"_id": 1, "device": "d1"}, {"_id": 2, "device": "tablet"}, {"_id": 3, "device": "d3"}],
}
LEFT = {
    "app_usersx": [{"_id": 2, "uid": "b", "did": ["tablet"]}, {"_id": 3, "uid": "c"}],
    "eventsx": [{"_id": 2, "uid": "b"}, {"_id": 4, "uid": "B"}, {"_id": 6, "uid": ["b"]}],
    "push_x": [{"_id": "b"}],
    "chatsx": [{"_id": 1, "members": ["b", "c"], "text": "hello"}, {"_id": 2, "members": ["b", "c"]}],
    "mailsx": [{"_id": 1, "to": [{"uid": "b", "name": "Bea"}]}, {"_id": 3, "to": [{"uid": "b"}]}],
    "devicesx": [{"_id": 2, "device": "tablet"}, {"_id": 3, "device": "d3"}],
}

Install = Callable[..., Exporter]


@pytest.fixture
def install(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Install]:
    """Return a function that opens an installation with an app "x"."""
    opened: list[Exporter] = []

    def install(documents: dict[str, list[Any]] = DOCUMENTS, catalog: str = CATALOG) -> Exporter:
        (tmp_path / "catalog.yaml").write_text(catalog)
        filled = make_database(documents).model_dump()
        settings = filled | {"catalog": tmp_path / "catalog.yaml", "secret_key": SECRET_KEY}
        opened.append(Exporter(type(make_database({}))(**settings)))
        return opened[-1]

    yield install
    for exporter in opened:
        exporter.close()


@pytest.fixture
def app(install: Install) -> Exporter:
    """The app, filled."""
    return install()


def there(app: Exporter) -> dict[str, list[Any]]:
    database = app.client[app.settings.mongo_database]
    return {name: list(database[name].find().sort("_id")) for name in sorted(database.list_collection_names())}


def test_a_person_is_erased_everywhere_and_nobody_else_is(app: Exporter) -> None:
    erasures = Erasures(app)
    before = there(app)
    dry_run = erasures.count("x", [UID], "ann")
    assert there(app) == before
    counts = {counted.collection: (counted.own, counted.shared) for counted in dry_run.counted.collections}
    assert counts == {
        "devicesx": (1, 0),
        "eventsx": (4, 1),
        "push_x": (1, 0),
        "chatsx": (1, 1),
        "mailsx": (1, 1),
        "app_usersx": (1, 0),
    }
    assert next(iter(counts)) == "devicesx"
    assert list(counts)[-1] == "app_usersx", "the person's own record goes last"

    receipt = erasures.confirm(dry_run.id, "x", [UID], "bob")
    assert there(app) == dict(sorted(LEFT.items()))
    assert {erased.collection: (erased.deleted, erased.detached) for erased in receipt.collections} == counts
    assert {erased.left for erased in receipt.collections} == {0}
    assert (receipt.uids, receipt.merged_uids, receipt.device_ids, receipt.kept_device_ids) == (1, 1, 2, 1)


def test_no_plain_id_is_kept_and_the_history_says_who_did_it(app: Exporter) -> None:
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")
    records.confirm(dry_run.id, "x", [UID], "bob")
    row = records.records.get(dry_run.id)
    assert [(event["event"], event["actor"]) for event in row.history] == [
        ("counted", "ann"),
        ("confirmed", "bob"),
        ("erased", "bob"),
    ]
    assert row.status == "erased"
    with app.database.connect() as connection:
        kept = str([connection.execute(select(table)).all() for table in (erasures, erased_users)])
    stored = "".join(path.read_text() for path in Path(app.settings.storage_root).rglob("*.json"))
    for plain in (UID, "a-old", "d1", "tablet"):
        assert f"'{plain}" not in kept
        assert UID not in kept + stored
        assert f'"{plain}"' not in stored
    assert stored.count("erased_at") == 1


def test_the_persons_exports_are_forgotten(app: Exporter, tmp_path: Path) -> None:
    request = app.submit(NewRequest("x", [UID]))
    other = app.submit(NewRequest("x", ["b"]))
    records = Erasures(app)
    receipt = records.confirm(records.count("x", [UID], "ann").id, "x", [UID], "ann")
    assert receipt.requests_forgotten == 1
    assert app.requests.get(request.id).status == "cancelled"
    assert app.requests.get(other.id).status == "pending"


def test_an_erasure_that_is_done_gives_its_receipt_again(app: Exporter) -> None:
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")
    receipt = records.confirm(dry_run.id, "x", [UID], "ann")
    assert records.confirm(dry_run.id, "x", [UID], "ann") == receipt
    assert app.client[app.settings.mongo_database]["erasuresx"].count_documents({}) == 0


def test_other_people_than_the_dry_runs_are_refused(app: Exporter) -> None:
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")
    before = there(app)
    for uids in (["b"], [UID, "b"]):
        with pytest.raises(ErasureRefusedError, match="other people") as raised:
            records.confirm(dry_run.id, "x", uids, "ann")
        assert UID not in str(raised.value)
    with pytest.raises(ErasureRefusedError, match="another app"):
        records.confirm(dry_run.id, "y", [UID], "ann")
    with pytest.raises(BadInputError, match="no erasure has this id"):
        records.confirm("nonsense", "x", [UID], "ann")
    assert there(app) == before


def test_a_person_with_a_new_uid_since_the_dry_run_is_counted_anew(app: Exporter) -> None:
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")
    app.client[app.settings.mongo_database]["app_usersx"].update_one({"_id": 1}, {"$push": {"merged_uid": "c"}})
    with pytest.raises(ErasureRefusedError, match="have changed since"):
        records.confirm(dry_run.id, "x", [UID], "ann")


def test_a_dry_run_lasts_a_day(app: Exporter) -> None:
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")
    long_ago = dry_run.requested_at - timedelta(days=1, minutes=1)
    with app.database.begin() as connection:
        connection.execute(update(erasures).values(requested_at=long_ago))
    with pytest.raises(ErasureRefusedError, match="older than a day"):
        records.confirm(dry_run.id, "x", [UID], "ann")


def test_a_few_new_documents_are_erased_and_many_are_refused(app: Exporter) -> None:
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")
    events = app.client[app.settings.mongo_database]["eventsx"]
    events.insert_many([{"uid": UID} for _ in range(101)])
    with pytest.raises(ErasureRefusedError, match="eventsx: the dry run counted 5 documents, now there are 106"):
        records.confirm(dry_run.id, "x", [UID], "ann")
    events.delete_one({"uid": UID})
    receipt = records.confirm(dry_run.id, "x", [UID], "ann")
    assert {erased.collection: erased.deleted for erased in receipt.collections}["eventsx"] == 104


def test_who_is_not_known_to_the_app_has_nothing_and_the_ledger_knows_them(app: Exporter) -> None:
    records, before = Erasures(app), there(app)
    dry_run = records.count("x", ["nobody"], "ann")
    assert sum(counted.documents for counted in dry_run.counted.collections) == 0
    assert records.confirm(dry_run.id, "x", ["nobody"], "ann").ledger_entries == 1
    assert there(app) == before


def test_without_a_secret_key_nothing_is_counted(app: Exporter) -> None:
    keyless = Exporter(app.settings.model_copy(update={"secret_key": None}))
    with keyless, pytest.raises(BadInputError, match="EXPORT_PIPELINE_SECRET_KEY"):
        Erasures(keyless).count("x", [UID], "ann")


def test_a_record_that_no_entry_claims_is_erased_too(install: Install) -> None:
    catalog = "\n".join(line for line in CATALOG.splitlines() if "name: users" not in line)
    app = install(DOCUMENTS, catalog)
    records = Erasures(app)
    records.confirm(records.count("x", [UID], "ann").id, "x", [UID], "ann")
    assert there(app) == dict(sorted(LEFT.items()))


def test_a_view_is_erased_through_its_source_and_refused_where_that_is_unknown(app: Exporter, tmp_path: Path) -> None:
    database = app.client[app.settings.mongo_database]
    database.create_collection("absentx", viewOn="eventsx", pipeline=[])
    records = Erasures(app)
    receipt = records.confirm(records.count("x", [UID], "ann").id, "x", [UID], "ann")
    assert [(erased.is_view, erased.left) for erased in receipt.collections if erased.collection == "absentx"] == [
        (True, 0)
    ]
    database.drop_collection("absentx")
    database.create_collection("absentx", viewOn="elsewhere", pipeline=[])
    with pytest.raises(BadInputError, match="absentx is a view of elsewhere, which no entry"):
        records.count("x", ["b"], "ann")


def test_a_time_series_is_erased_by_its_metadata_and_refused_without(app: Exporter) -> None:
    database = app.client[app.settings.mongo_database]
    from datetime import UTC, datetime

    at = datetime(2026, 1, 1, tzinfo=UTC)
    database.create_collection("absentx", timeseries={"timeField": "at", "metaField": "uid"})
    database["absentx"].insert_many([{"at": at, "uid": uid, "n": n} for n, uid in enumerate([UID, "b", UID])])
    records = Erasures(app)
    receipt = records.confirm(records.count("x", [UID], "ann").id, "x", [UID], "ann")
    assert {erased.collection: erased.deleted for erased in receipt.collections}["absentx"] == 2
    assert [document["uid"] for document in database["absentx"].find()] == ["b"]
    database.drop_collection("absentx")
    database.create_collection("absentx", timeseries={"timeField": "at", "metaField": "meta"})
    with pytest.raises(BadInputError, match="absentx is a time series whose metadata do not hold the user key"):
        records.count("x", ["b"], "ann")


def test_ids_compare_byte_for_byte_whatever_the_collections_collation(app: Exporter) -> None:
    database = app.client[app.settings.mongo_database]
    database.create_collection("absentx", collation={"locale": "en", "strength": 1})
    database["absentx"].insert_many([{"_id": 1, "uid": UID.upper()}, {"_id": 2, "uid": UID}])
    records = Erasures(app)
    records.confirm(records.count("x", [UID], "ann").id, "x", [UID], "ann")
    assert [document["_id"] for document in database["absentx"].find()] == [1]


def test_hooks_select_even_after_the_persons_record_is_gone(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "looking_up.py").write_text(
        textwrap.dedent("""
        calls = []
        def hook(uids, app_id):
            calls.append(1)
            if len(calls) > 2:
                raise RuntimeError
            return {"phone": {"$in": ["phone of " + uid for uid in uids]}}
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    catalog = CATALOG.replace("user_key: members}", 'hook: "looking_up:hook"}')
    phones = [{"_id": 1, "phone": f"phone of {UID}"}, {"_id": 2, "phone": "phone of b"}]
    app = install({**DOCUMENTS, "chatsx": phones}, catalog)
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")

    def crash(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(removal, "forget", crash)
    with pytest.raises(KeyboardInterrupt):
        records.confirm(dry_run.id, "x", [UID], "ann")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    receipt = records.confirm(dry_run.id, "x", [UID], "ann")
    assert there(app)["chatsx"] == phones[1:]
    assert receipt.collections[0].collection == "chatsx"
    with pytest.raises(CatalogError, match="failed with RuntimeError"):
        records.count("x", ["b"], "ann")


def test_documents_that_keep_being_written_leave_an_erasure_that_can_be_confirmed_again(
    app: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")
    erase_ = ErasableCollection.erase

    def erased_and_written(self: ErasableCollection) -> None:
        erase_(self)
        if self.name == "eventsx":
            self._collection.insert_one({"uid": UID})

    monkeypatch.setattr(ErasableCollection, "erase", erased_and_written)
    with pytest.raises(IncompleteError, match="1 documents of these people"):
        records.confirm(dry_run.id, "x", [UID], "ann")
    monkeypatch.undo()
    with pytest.raises(ErasureRefusedError, match="interrupted, is of other people"):
        records.confirm(dry_run.id, "x", ["b"], "ann")
    records.confirm(dry_run.id, "x", [UID], "ann")
    assert there(app) == dict(sorted(LEFT.items()))
    assert [event["event"] for event in records.records.get(dry_run.id).history] == [
        "counted",
        "confirmed",
        "taken up",
        "erased",
    ]


KILLED = """
import os, signal, sys
from export_pipeline.backups import erase, erase_documents
from export_pipeline.packages import removal
from export_pipeline.backups.ledger import Ledger
from export_pipeline.installation import Installation
from export_pipeline.settings import Settings

steps, die_at = 0, int(sys.argv[1])
def before(owner, name):
    original = getattr(owner, name)
    def counted(*arguments, **named):
        global steps
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)
    setattr(owner, name, counted)

before(Ledger, "write")
before(erase_documents.ErasableCollection, "erase")
before(erase_documents.ErasableCollection, "_erase_one")
before(erase_documents.ErasableCollection, "left")
before(removal, "forget")
before(erase.ErasureRecords, "finish")
with Installation(Settings.load()) as installation:
    erase.Erasures(installation).confirm(sys.argv[2], "x", [sys.argv[3]], "ann")
print(steps)
"""


def environment(app: Exporter) -> dict[str, str]:
    settings = app.settings
    return {
        "DAGSTER_HOME": str(settings.home),
        "EXPORT_PIPELINE_MONGO_URI": settings.mongo_uri.get_secret_value(),
        "EXPORT_PIPELINE_MONGO_DATABASE": settings.mongo_database,
        "EXPORT_PIPELINE_CATALOG": str(settings.catalog),
        "EXPORT_PIPELINE_SECRET_KEY": SECRET_KEY,
    }


def test_an_erasure_that_is_killed_at_any_step_is_ended_by_the_same_id(app: Exporter) -> None:
    records = Erasures(app)
    dry_run = records.count("x", [UID], "ann")
    killed = 0
    for die_at in (1, 3, 6, 9, 14, 20, 24, 26, 27, 1000):
        command = [sys.executable, "-c", KILLED, str(die_at), dry_run.id, UID]
        done = subprocess.run(command, env=environment(app), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        killed += 1
        assert records.records.get(dry_run.id).status == "erasing"
    assert killed >= 5
    assert records.records.get(dry_run.id).status == "erased"
    assert there(app) == dict(sorted(LEFT.items()))


def test_the_command_line_takes_two_steps(app: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(app).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, exit_code: int = 0) -> Any:
        result = CliRunner().invoke(main, ["erase", "--app", "x", *arguments])
        assert result.exit_code == exit_code, result.output
        return result

    shown = run("--uid", UID)
    assert "Nothing is deleted yet" in shown.stdout
    assert "other people's too" in shown.stderr
    counted = json.loads(run("--uid", UID, "--json").stdout)
    assert counted["dry_run"] is True
    assert "other people" in run("--uid", "b", "--confirm", counted["erasure_id"], exit_code=2).stderr
    assert ": erased;" in run("--uid", UID, "--confirm", counted["erasure_id"]).stdout
    receipt = json.loads(run("--uid", UID, "--confirm", counted["erasure_id"], "--json").stdout)
    assert receipt["erasure_id"] == counted["erasure_id"]
    assert UID not in json.dumps(receipt)
    run("--uid", UID, "--confirm", "0", exit_code=2)
