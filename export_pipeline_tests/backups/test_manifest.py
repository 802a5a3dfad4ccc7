import pytest
from pydantic import ValidationError

from export_pipeline.backups.manifest import BackupManifest
from export_pipeline_tests.backups.made import collection, manifest, part


def test_a_manifest_survives_json() -> None:
    made = manifest(collection(parts=(part(first_id={"$numberInt": "1"}, last_id={"z": 1, "a": 2}),)))
    again = BackupManifest.model_validate_json(made.model_dump_json())
    assert again == made
    assert list(again.collections[0].parts[0].last_id) == ["z", "a"]


def test_another_version_is_not_a_manifest() -> None:
    with pytest.raises(ValidationError):
        BackupManifest.model_validate_json(
            manifest().model_dump_json().replace('"format_version":1', '"format_version":2')
        )


def test_a_backup_needs_those_that_hold_its_files_and_its_base() -> None:
    made = manifest(
        collection("a", (part(backup_id="first"), part("part-00001.bson"))),
        collection("b", (part(backup_id="second"),)),
        base={"backup_id": "third", "manifest_sha256": "c" * 64},
    )
    assert made.needs == {"first", "second", "third"}
    assert manifest(collection(parts=(part(),))).needs == frozenset()


def test_totals_tell_own_files_from_those_of_others() -> None:
    made = manifest(collection(parts=(part(backup_id="first", documents=5), part("part-00001.bson", documents=1))))
    assert (made.totals.documents, made.totals.files, made.totals.files_of_others) == (6, 1, 1)
    assert made.totals.file_bytes == 100
