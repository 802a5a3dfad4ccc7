"""What remains of a backup that was removed, and of those that failed."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from export_pipeline.backups.removal import (
    LEFT_FOR_A_RETRY,
    StillNeededError,
    backup_folder,
    remove_backup,
    remove_by_hand,
    storage_of,
    sweep_backups,
)
from export_pipeline.errors import BadInputError, StaleRequestError, StorageError
from export_pipeline.installation import Installation
from export_pipeline.requests.models import Request, Status
from export_pipeline.settings import Settings
from export_pipeline.storage import DirectoryStorage
from export_pipeline_tests.backups.simulation import NOW, make_request


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with Installation(Settings(home=tmp_path / "home")) as installation:
        yield installation


def make_backup(installation: Installation, status: Status = "completed", **columns: Any) -> Request:
    """A row, and the files that such a backup has."""
    request = make_request(installation, status=status, **columns)
    storage = storage_of(installation, request)
    names = ["events/part-00000.bson", "users/part-00000.bson", *(["manifest.json"] if status == "completed" else [])]
    for name in names:
        with storage.create(f"{backup_folder(request)}/{name}") as file:
            file.write(b"documents")
            file.commit()
    return request


def files_of(installation: Installation, request: Request) -> list[str]:
    root = Path(storage_of(installation, request).locate(backup_folder(request)))
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_by_hand_nothing_is_removed_that_is_still_needed(installation: Installation) -> None:
    base = make_backup(installation)
    later = make_backup(installation, options={"base": base.id})
    with pytest.raises(StillNeededError, match=f"backup {later.id} builds on {base.id}"):
        remove_by_hand(installation, base.id)
    restore = make_request(installation, kind="restore", status="running", options={"backup_id": later.id})
    with pytest.raises(StillNeededError, match="is being restored"):
        remove_by_hand(installation, later.id)
    installation.requests.cancel(restore.id, "test")
    for request in (later, base):
        remove_by_hand(installation, request.id)
        assert files_of(installation, request) == []
    with pytest.raises(BadInputError, match="no backup has this id"):
        remove_by_hand(installation, restore.id)


@pytest.mark.parametrize("app_id", ["app", "*"])
def test_a_removed_backup_leaves_its_row_and_no_file(installation: Installation, app_id: str) -> None:
    gone, stays = make_backup(installation, app_id=app_id), make_backup(installation, app_id=app_id)
    remove_backup(installation.requests, installation.storage, gone)

    assert not Path(installation.storage.locate(backup_folder(gone))).exists()
    assert len(files_of(installation, stays)) == 3
    assert installation.requests.get(gone.id).status == "expired"
    assert installation.requests.get(stays.id).status == "completed"
    assert [event["event"] for event in installation.requests.events(gone.id)] == ["expired"]


def test_a_backup_is_removed_from_where_it_is(installation: Installation, tmp_path: Path) -> None:
    elsewhere = make_backup(installation, options={"format": "bson", "storage": str(tmp_path / "elsewhere")})
    folder = tmp_path / "elsewhere" / backup_folder(elsewhere)
    assert folder.exists()
    remove_backup(installation.requests, storage_of(installation, elsewhere), elsewhere)
    assert not folder.exists()


def test_removing_twice_is_removing_once(installation: Installation) -> None:
    backup = make_backup(installation)
    for _ in range(2):
        remove_backup(installation.requests, installation.storage, backup)
    assert len(installation.requests.events(backup.id)) == 1


@pytest.mark.parametrize("status", ["pending", "running", "failed"])
def test_what_is_not_completed_is_not_removed(installation: Installation, status: Status) -> None:
    backup = make_backup(installation, status)
    with pytest.raises(StaleRequestError, match=f"is {status}; only a completed one"):
        remove_backup(installation.requests, installation.storage, backup)
    assert len(files_of(installation, backup)) == 2


def test_where_the_storage_fails_the_backup_is_unsealed_and_still_to_be_removed(installation: Installation) -> None:
    class Failing(DirectoryStorage):
        def delete(self, prefix: str) -> None:
            if prefix.endswith(backup.id):
                raise StorageError("no permission")
            super().delete(prefix)

    backup = make_backup(installation)
    with pytest.raises(StorageError):
        remove_backup(installation.requests, Failing(installation.settings.storage_root), backup)
    assert "manifest.json" not in files_of(installation, backup)
    assert installation.requests.get(backup.id).status == "completed"


def test_failed_backups_leave_nothing_once_nobody_resumes_them(installation: Installation) -> None:
    made = {status: make_backup(installation, status) for status in ("completed", "running", "failed", "cancelled")}
    assert sweep_backups(installation, NOW) == []

    later = NOW + LEFT_FOR_A_RETRY + timedelta(hours=1)
    removed = sweep_backups(installation, later)
    assert sorted(removed) == sorted([made["failed"].id, made["cancelled"].id])
    assert not Path(installation.storage.locate(backup_folder(made["failed"]))).exists()
    assert len(files_of(installation, made["running"])) == 2
    assert len(files_of(installation, made["completed"])) == 3


def test_failed_backups_are_swept_wherever_they_went(installation: Installation, tmp_path: Path) -> None:
    roots = [str(tmp_path / "here"), str(tmp_path / "there")]
    for root in roots:
        make_backup(installation, "failed", options={"storage": root})
    assert len(sweep_backups(installation, NOW + 2 * LEFT_FOR_A_RETRY)) == 2
    assert not list(tmp_path.glob("*ere/backups/app/*"))


def test_a_place_that_is_away_holds_up_no_other(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    make_request(installation, status="failed", options={"storage": str(tmp_path / "a-file" / "below")})
    failed = make_backup(installation, "failed", options={"storage": str(tmp_path / "there")})
    assert sweep_backups(installation, NOW + 2 * LEFT_FOR_A_RETRY) == [failed.id]


def test_a_folder_of_nobody_stays(installation: Installation) -> None:
    with installation.storage.create("backups/app/by-hand/part-00000.bson") as file:
        file.commit()
    assert sweep_backups(installation, NOW + timedelta(days=99)) == []
    assert installation.storage.exists("backups/app/by-hand/part-00000.bson")
