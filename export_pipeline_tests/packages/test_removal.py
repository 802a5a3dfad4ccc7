"""Cancelling at any moment, and forgetting a person or an app: nothing that was written for them stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from export_pipeline.errors import BadInputError, StaleRequestError
from export_pipeline.exporter import Exporter
from export_pipeline.requests import leases
from export_pipeline.requests.backups import BackupRequests, NewBackup
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline_tests.conftest import MakeDatabase

CATALOG = """
version: 1
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
identity: {collection: "app_users{app_id}", uid: uid, merged_uids: merged_uid}
"""


@pytest.fixture
def app(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Exporter]:
    """An app "x" of three users, one of whom was merged."""
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    people = [{"uid": "a"}, {"uid": "b", "merged_uid": ["old-b"]}, {"uid": "c"}]
    filled = make_database({"app_usersx": people})
    with Exporter(filled.model_copy(update={"catalog": tmp_path / "catalog.yaml"})) as exporter:
        yield exporter


def export(app: Exporter, *requests: Request) -> None:
    app.requests.claim(batch := Batch(new_id(), tuple(request.id for request in requests)))
    plan = app.plan(batch.id)
    app.read_slice(plan, "users")
    assert all(outcome.error is None for outcome in app.package(plan))
    app.discard_slices(batch.id)


def files(app: Exporter) -> list[str]:
    return [path.name for path in Path(app.settings.storage_root).rglob("*") if path.is_file()]


def test_a_request_is_cancelled_while_it_waits(app: Exporter) -> None:
    request = app.submit(NewRequest("x", ["a"]))
    assert app.cancel(request.id, "ann").status == "cancelled"
    assert app.requests.pending(10) == []


def test_a_request_is_cancelled_while_its_slices_are_read(app: Exporter) -> None:
    request = app.submit(NewRequest("x", ["a"]))
    app.requests.claim(batch := Batch(new_id(), (request.id,)))
    plan = app.plan(batch.id)
    app.cancel(request.id, "ann")
    assert files(app) == []
    with pytest.raises(StaleRequestError, match="no running request any more"):
        app.read_slice(plan, "users")
    assert files(app) == []


def test_a_worker_that_reads_notices_that_it_was_cancelled(app: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    request = app.submit(NewRequest("x", ["a"]))
    app.requests.claim(batch := Batch(new_id(), (request.id,)))
    plan = app.plan(batch.id)

    def cancelled_meanwhile(documents: int) -> None:
        if app.requests.get(request.id).is_live:
            app.cancel(request.id, "ann")
        app._leases[batch.id]._renew()  # as its thread does every few seconds
        app._leases[batch.id].check()

    assert leases.BEAT < leases.SILENCE
    with pytest.raises(StaleRequestError):
        app.read_slice(plan, "users", cancelled_meanwhile)
    assert files(app) == []


def test_a_request_that_is_cancelled_before_it_is_published_leaves_nothing_and_its_neighbour_is_completed(
    app: Exporter,
) -> None:
    cancelled, kept = app.submit(NewRequest("x", ["a"])), app.submit(NewRequest("x", ["b"]))
    app.requests.claim(batch := Batch(new_id(), (cancelled.id, kept.id)))
    plan = app.plan(batch.id)
    app.read_slice(plan, "users")
    app.cancel(cancelled.id, "ann")
    assert [outcome.request_id for outcome in app.package(plan)] == [kept.id]
    assert not app.storage.folders("exports/x") or app.storage.folders("exports/x") == [kept.id]
    assert app.requests.get(cancelled.id).status == "cancelled"


def test_a_finished_request_is_not_cancelled(app: Exporter) -> None:
    request = app.submit(NewRequest("x", ["a"]))
    export(app, request)
    with pytest.raises(StaleRequestError, match="is completed; only a live one"):
        app.cancel(request.id, "ann")
    assert "export.json" in files(app)


def test_a_forgotten_user_leaves_no_package_and_no_uid(app: Exporter) -> None:
    alone, together, other = (app.submit(NewRequest("x", uids)) for uids in (["a"], ["a", "c"], ["c"]))
    export(app, alone, together, other)
    waiting = app.submit(NewRequest("x", ["a"], "jsonl"))
    assert app.forget("x", "a", "ann") == 3
    rows = [app.requests.get(request.id) for request in (alone, together, other, waiting)]
    assert [row.status for row in rows] == ["expired", "expired", "completed", "cancelled"]
    assert [dict(row.selection) for row in rows] == [
        {"forgotten": 1},
        {"uids": ["c"], "forgotten": 1},
        {"uids": ["c"]},
        {"forgotten": 1},
    ]
    assert app.storage.folders("exports/x") == [other.id]
    assert app.requests.events(alone.id)[-1]["event"] == "forgotten"
    assert app.requests.events(alone.id)[-1]["actor"] == "ann"


def test_a_user_is_forgotten_by_a_merged_uid_too(app: Exporter) -> None:
    request = app.submit(NewRequest("x", ["b"]))
    export(app, request)
    assert app.forget("x", "old-b", "ann") == 1
    assert app.storage.folders("exports/x") == []
    assert app.requests.get(request.id).selection == {"forgotten": 1}


def test_a_forgotten_app_leaves_nothing_and_other_apps_stay(app: Exporter) -> None:
    request, other = app.submit(NewRequest("x", ["a"])), app.submit(NewRequest("y", ["a"]))
    export(app, request)
    assert app.forget("x", None, "ann") == 1
    assert app.storage.folders("exports/x") == []
    assert app.requests.get(other.id).selection == {"uids": ["a"]}


def test_a_forgotten_apps_backups_are_none_of_its_exports(app: Exporter) -> None:
    backup = BackupRequests.beside(app.requests).submit(NewBackup("x"))
    assert app.forget("x", None, "ann") == 0
    assert app.requests.get(backup.id) == backup
    with pytest.raises(BadInputError, match="is no export but app_backup"):
        app.download(backup)


def test_who_was_forgotten_is_not_exported_by_a_retry(app: Exporter) -> None:
    request = app.submit(NewRequest("x", ["a"]))
    app.requests.claim(batch := Batch(new_id(), (request.id,)))
    app.requests.fail(request.id, batch.id, code="incomplete", message="")
    app.forget("x", "a", "ann")
    with pytest.raises(BadInputError, match="has forgotten whom it was about"):
        app.requests.retry(request.id, "ann")
