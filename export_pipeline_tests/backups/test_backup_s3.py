"""Backups that go to a real S3 server, each by the storage that its request names."""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from bson import ObjectId

from export_pipeline.backups.backup import LATEST, Backups
from export_pipeline.backups.removal import backup_folder, storage_of
from export_pipeline.backups.verify import verify_backup
from export_pipeline.errors import IncompleteError
from export_pipeline.installation import Installation
from export_pipeline.requests.backups import NewBackup
from export_pipeline_tests.conftest import MakeDatabase

if TYPE_CHECKING:
    from export_pipeline_tests.s3_server import S3Server

pytest_plugins = "export_pipeline_tests.s3_server"

APP = "652f1a7e9c3b4d0012ab34c1"


@pytest.mark.parametrize("form", [{"format": "bson"}, {"format": "jsonl", "compression": "zstd"}])
def test_parts_go_to_s3_and_come_back_whole(
    make_database: MakeDatabase, s3_server: "S3Server", aws_keys: None, form: dict[str, Any]
) -> None:
    settings = make_database({f"app_users{APP}": [{"_id": ObjectId(), "text": "x" * 990} for _ in range(3000)]})
    settings = settings.model_copy(update={"s3_endpoint_url": s3_server.url, "s3_region": "us-east-1"})
    with Installation(settings) as installation:
        backups = Backups(installation)
        new: dict[str, Any] = {"form": {**form, "part_bytes": 1_000_000}, "storage": f"s3://exports/{uuid4().hex}"}
        first = backups.submit(NewBackup(APP, **new), run_here=True)
        manifest = backups.run(first)
        assert str(backups.requests.get(first.id).result_uri).startswith("s3://exports/")
        second = backups.submit(NewBackup(APP, **new, base=LATEST), run_here=True)
        again = backups.run(second)
        assert {part.backup_id for part in again.collections[0].parts} == {first.id}
        storage = storage_of(installation, first)
        assert verify_backup(storage, backup_folder(first)).manifest == manifest
        assert verify_backup(storage, backup_folder(second)).manifest == again
        assert not storage.exists(f"{backup_folder(first)}/plan.json")
        storage.delete(f"{backup_folder(first)}/app_users{APP}/{manifest.collections[0].parts[1].name}")
        for request in (first, second):
            with pytest.raises(IncompleteError, match=r"part-00001.*: the part is missing"):
                verify_backup(storage, backup_folder(request))
