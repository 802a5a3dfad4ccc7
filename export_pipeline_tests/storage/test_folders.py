"""The folders below a folder, in a directory, sealed, and on a real S3 server."""

from pathlib import Path

import pytest

from export_pipeline.encryption.age import new_identity
from export_pipeline.errors import BadInputError
from export_pipeline.storage import DirectoryStorage, S3Storage, Storage
from export_pipeline.storage.sealed import SealedStorage

pytest_plugins = "export_pipeline_tests.s3_server"

BUCKET = "exports"  # as s3_server makes it


@pytest.fixture(params=["directory", "sealed", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty storage of each kind."""
    if request.param == "s3":
        return S3Storage(request.getfixturevalue("shared_s3_client"), BUCKET, f"folders/{tmp_path.name}")
    plain = DirectoryStorage(tmp_path)
    return SealedStorage(plain, new_identity()) if request.param == "sealed" else plain


def keep(storage: Storage, *keys: str) -> None:
    for key in keys:
        with storage.create(key) as file:
            file.write(b"data")
            file.commit()


def test_folders_are_named_and_files_are_not(storage: Storage) -> None:
    keep(storage, "slices/b2/plan.json", "slices/b1/deep/er.data", "slices/file", "slices-2/b3/plan.json")
    assert storage.folders("slices") == ["b1", "b2"]
    assert storage.folders("slices/b1") == ["deep"]
    assert storage.folders("slices/b2") == []


def test_there_are_none_where_nothing_is(storage: Storage) -> None:
    assert storage.folders("nothing") == []
    keep(storage, "slices/b1/plan.json")
    storage.delete("slices/b1")
    assert storage.folders("slices") == []


def test_a_prefix_stays_inside_the_root(storage: Storage) -> None:
    with pytest.raises(BadInputError):
        storage.folders("../elsewhere")
