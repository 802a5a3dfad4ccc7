import pytest

from export_pipeline.errors import BadInputError, StaleRequestError
from export_pipeline.requests.backups import BackupRequests, BackupUnderWayError, NewBackup
from export_pipeline.requests.batches import plan_batches
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.store import HERE, IdempotencyConflictError, RequestStore

pytest_plugins = "export_pipeline_tests.postgres"

APP = "652f1a7e9c3b4d0012ab34c1"


@pytest.fixture
def backups(store: RequestStore) -> BackupRequests:
    return BackupRequests.beside(store)


def test_a_backup_waits_apart_from_exports(store: RequestStore, backups: BackupRequests) -> None:
    export = store.submit(NewRequest(APP, ["1a2"]))
    backup = backups.submit(NewBackup(APP, {"format": "bson"}, storage="s3://elsewhere"))
    assert [row.id for row in store.pending(10)] == [export.id]
    assert [row.id for row in backups.waiting(10)] == [backup.id]
    assert (backup.kind, backup.options) == ("app_backup", {"format": "bson", "storage": "s3://elsewhere"})


def test_there_is_one_backup_of_an_app_at_a_time(store: RequestStore, backups: BackupRequests) -> None:
    first = backups.submit(NewBackup(APP))
    with pytest.raises(BackupUnderWayError, match=f"backup {first.id} of this app is pending"):
        backups.submit(NewBackup(APP, {"format": "jsonl"}))
    backups.submit(NewBackup("other"))
    store.cancel(first.id, "test")
    second = backups.submit(NewBackup(APP), run_here=True)
    assert (second.status, second.run_id) == ("running", HERE)
    with pytest.raises(BackupUnderWayError, match="is running"):
        backups.submit(NewBackup(APP), run_here=True)


def test_a_repetition_finds_the_first(backups: BackupRequests) -> None:
    first = backups.submit(NewBackup(APP, idempotency_key="night"))
    assert backups.submit(NewBackup(APP, idempotency_key="night")).id == first.id
    with pytest.raises(IdempotencyConflictError):
        backups.submit(NewBackup(APP, {"format": "csv"}, idempotency_key="night"))


def test_a_worker_takes_it_to_its_end(store: RequestStore, backups: BackupRequests) -> None:
    backup = backups.submit(NewBackup("*", base="before"))
    (batch,) = plan_batches(backups.waiting(10), 1)
    assert store.claim(batch) == [backup.id]
    for _ in range(2):
        store.advance(backup.id, batch.id, documents=2, bytes_written=3)
    assert (store.get(backup.id).documents_done, store.get(backup.id).bytes_written) == (4, 6)
    with pytest.raises(StaleRequestError):
        store.advance(backup.id, "another batch", documents=2, bytes_written=3)
    store.complete(
        backup.id, batch.id, documents=5, result_uri="x", result_bytes=7, result_sha256="0" * 64, expires_at=None
    )
    assert [row.id for row in backups.completed("*")] == [backup.id]
    assert backups.completed(APP) == []
    assert backups.submit(NewBackup("*")).status == "pending"


@pytest.mark.parametrize(
    "wrong",
    [
        {"app_id": "a/b"},
        {"app_id": ""},
        {"app_id": APP, "requested_by": "x" * 201},
        {"app_id": APP, "idempotency_key": ""},
    ],
)
def test_bad_input_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(BadInputError):
        NewBackup(**wrong)  # type: ignore[arg-type]
