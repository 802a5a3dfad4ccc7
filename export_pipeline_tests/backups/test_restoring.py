"""A restore's row: it says how far the restore is and how it ended, and its end is the restore's."""

from datetime import UTC, datetime
from typing import Any

import pytest

from export_pipeline.backups import restore as restore_steps
from export_pipeline.backups.present import BackupReader
from export_pipeline.backups.restore import Restore
from export_pipeline.backups.restore_plan import TargetRefusedError, Wish
from export_pipeline.backups.restore_target import PROGRESS
from export_pipeline.backups.restoring import Restores
from export_pipeline.errors import StaleRequestError
from export_pipeline.exporter import Exporter
from export_pipeline.requests.restores import RestoreUnderWayError
from export_pipeline_tests.backups.test_restore import BackUp, app, assert_same, back_up

__all__ = ["app", "back_up"]  # fixtures


@pytest.fixture
def restores(app: Exporter) -> Restores:
    return Restores(app)


@pytest.fixture
def to(app: Exporter) -> str:
    return f"{app.settings.mongo_database}_copy"


def test_a_row_ends_with_its_restore(app: Exporter, back_up: BackUp, restores: Restores, to: str) -> None:
    backup = back_up()
    restoring = restores.open(backup, Wish([to]))
    row = restores.submit(restoring, backup, "ann", run_here=True)
    assert BackupReader(app.database).read_by_restores() == {backup}
    report = restores.run(row, restoring)
    done = app.requests.get(row.id)
    assert (done.status, done.documents_done, done.documents_total) == (
        "completed",
        report.documents,
        restoring.documents,
    )
    assert BackupReader(app.database).read_by_restores() == set()
    assert PROGRESS not in app.client[to].list_collection_names()
    assert_same(app.client, app.settings.mongo_database, to)


def test_who_takes_the_row_up_restores_what_it_asks_for(
    app: Exporter, back_up: BackUp, restores: Restores, to: str
) -> None:
    backup = back_up()
    wish = Wish((to,), "64b1f0a2c3d4e5f60718293b", ("empty_64b1f0a2c3d4e5f60718293a",), 3)
    row = restores.submit(restores.open(backup, wish), backup, "ann")
    taken_up = restores.open_of(app.requests.get(row.id))
    assert taken_up.wish == Wish([to], wish.app_id, list(wish.without), 3)
    assert taken_up.manifest.backup_id == backup


def test_another_restore_into_the_same_database_has_to_wait(back_up: BackUp, restores: Restores, to: str) -> None:
    backup = back_up()
    first = restores.submit(restores.open(backup, Wish([to])), backup, "ann")
    with pytest.raises(RestoreUnderWayError, match=first.id):
        restores.submit(restores.open(backup, Wish([to])), backup, "ben")
    restores.submit(restores.open(backup, Wish([f"{to}_2"])), backup, "ben")


def test_a_refusal_is_told_by_the_row(app: Exporter, back_up: BackUp, restores: Restores) -> None:
    backup = back_up()
    restoring = restores.open(backup, Wish([app.settings.mongo_database]))
    row = restores.submit(restoring, backup, "ann", run_here=True)
    with pytest.raises(TargetRefusedError):
        restores.run(row, restoring)
    failed = app.requests.get(row.id)
    assert (failed.status, failed.error_code) == ("failed", "target_refused")


def test_a_cancelled_restore_stops_and_can_be_taken_up_by_the_next(
    app: Exporter, back_up: BackUp, restores: Restores, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = back_up()
    monkeypatch.setattr("export_pipeline.backups.working.Lease.__init__.__defaults__", (0.01,))
    load_part: Any = vars(restore_steps)["load_part"]
    loaded: list[str] = []

    def cancelling(*arguments: Any, **named: Any) -> Any:
        loaded.append(arguments[2].name)
        if len(loaded) == 2:
            app.cancel(row.id, "ann")
            while True:
                named["on_documents"](0)  # until it notices
        return load_part(*arguments, **named)

    restoring = restores.open(backup, Wish([to]))
    row = restores.submit(restoring, backup, "ann", run_here=True)
    with monkeypatch.context() as patched:
        patched.setattr(restore_steps, "load_part", cancelling)
        with pytest.raises(StaleRequestError):
            restores.run(row, restoring)
    assert app.requests.get(row.id).status == "cancelled"
    again = restores.open(backup, Wish([to]))
    report = restores.run(restores.submit(again, backup, "ann", run_here=True), again)
    assert report.continued
    assert_same(app.client, app.settings.mongo_database, to)


def test_a_restore_that_is_recorded_leaves_nothing_behind_even_if_it_died_right_then(
    app: Exporter, back_up: BackUp, restores: Restores, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = back_up()
    restoring = restores.open(backup, Wish([to]))
    row = restores.submit(restoring, backup, "ann", run_here=True)
    with monkeypatch.context() as patched:
        patched.setattr(Restore, "forget", lambda _: None)
        restores.run(row, restoring)
    assert PROGRESS in app.client[to].list_collection_names()
    restores.tidy(datetime.now(UTC))
    assert_same(app.client, app.settings.mongo_database, to)


def test_tidying_leaves_another_restores_record(
    app: Exporter, back_up: BackUp, restores: Restores, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, later = back_up(), back_up()
    restoring = restores.open(backup, Wish([to]))
    restores.run(restores.submit(restoring, backup, "ann", run_here=True), restoring)
    app.client.drop_database(to)
    with monkeypatch.context() as patched:
        patched.setattr(Restore, "forget", lambda _: None)
        restores.open(later, Wish([to])).run()
    restores.tidy(datetime.now(UTC))
    assert PROGRESS in app.client[to].list_collection_names()
