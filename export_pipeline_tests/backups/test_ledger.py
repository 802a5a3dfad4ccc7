"""The ledger: hashes that are the same wherever the key is, and whom a backup of a moment must not bring back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from export_pipeline.backups.erase_records import Counted, ErasureRecords
from export_pipeline.backups.ledger import CLOCKS_DIFFER, Ledger, LedgerEntry, LedgerKey
from export_pipeline.errors import BadInputError
from export_pipeline.exporter import Exporter
from export_pipeline.settings import Settings

SECRET_KEY = "x" * 32
ERASED_AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOBODY = Counted(uids=1, merged_uids=0, device_ids=0, shared_device_ids=0, collections=())


@pytest.fixture
def installation(settings: Settings) -> Exporter:
    """An installation with a secret key."""
    return Exporter(Settings(**settings.model_dump() | {"secret_key": SECRET_KEY}))


def erased(installation: Exporter, uid: str, erased_at: datetime | None, secret_key: str = SECRET_KEY) -> LedgerEntry:
    erasure = ErasureRecords(installation.database).add("app", "0" * 64, NOBODY, "ann")
    key = LedgerKey(secret_key, "app")
    entry = LedgerEntry(
        erasure_id=erasure.id, app_id="app", key_check=key.check, hashes=(key.of_uid(uid),), erased_at=erased_at
    )
    Ledger(installation.database, [installation.storage]).write(entry)
    return entry


def since(installation: Exporter, moment: datetime) -> frozenset[str]:
    return Ledger(installation.database, [installation.storage]).erased_since("app", moment, installation.settings)


def test_hashes_differ_by_app_by_key_and_by_what_the_id_is_of() -> None:
    key = LedgerKey(SECRET_KEY, "app")
    assert key.of_uid("a") == LedgerKey(SECRET_KEY, "app").of_uid("a")
    others = [LedgerKey(SECRET_KEY, "other").of_uid("a"), LedgerKey("y" * 32, "app").of_uid("a"), key.of_device("a")]
    assert len({key.of_uid("a"), *others}) == 4


def test_a_backup_from_before_the_erasure_is_concerned_and_a_later_one_is_not(installation: Exporter) -> None:
    (uid_hash,) = erased(installation, "a", ERASED_AT).hashes
    assert since(installation, ERASED_AT - timedelta(days=9)) == {uid_hash}
    assert since(installation, ERASED_AT + CLOCKS_DIFFER) == {uid_hash}, "in doubt"
    assert since(installation, ERASED_AT + CLOCKS_DIFFER + timedelta(seconds=1)) == frozenset()


def test_an_erasure_under_way_concerns_all_backups_until_it_has_ended(installation: Exporter) -> None:
    entry = erased(installation, "a", None)
    later = ERASED_AT + timedelta(days=1)
    assert since(installation, later) == set(entry.hashes)
    Ledger(installation.database, [installation.storage]).write(entry.model_copy(update={"erased_at": ERASED_AT}))
    assert since(installation, later) == frozenset()


def test_another_installation_with_the_same_key_reads_it_from_the_storage(
    installation: Exporter, tmp_path: Path
) -> None:
    entry = erased(installation, "a", ERASED_AT)
    settings = installation.settings.model_copy(
        update={"home": tmp_path / "other", "storage": installation.settings.storage_root}
    )
    with Exporter(settings) as other:
        assert since(other, ERASED_AT) == set(entry.hashes)


def test_a_ledger_under_another_key_is_an_error_since_it_would_match_nobody(installation: Exporter) -> None:
    erased(installation, "a", ERASED_AT, "y" * 32)
    with pytest.raises(BadInputError, match="another EXPORT_PIPELINE_SECRET_KEY"):
        since(installation, ERASED_AT)
    assert since(installation, ERASED_AT + timedelta(days=1)) == frozenset()


def test_without_a_key_only_an_empty_ledger_can_be_read(installation: Exporter) -> None:
    with Exporter(installation.settings.model_copy(update={"secret_key": None})) as keyless:
        assert since(keyless, ERASED_AT) == frozenset()
        erased(installation, "a", ERASED_AT)
        with pytest.raises(BadInputError, match="set that first"):
            since(keyless, ERASED_AT)


def test_who_is_erased_twice_is_in_the_ledger_once(installation: Exporter) -> None:
    erased(installation, "a", ERASED_AT)
    entry = erased(installation, "a", ERASED_AT + timedelta(days=30))
    assert since(installation, ERASED_AT + timedelta(days=20)) == set(entry.hashes)
