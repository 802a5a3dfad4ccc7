"""A batch under Dagster whose slices and packages go to a real S3 server, through dagster-aws' resource."""

import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from export_pipeline.demo.data import DemoData
from export_pipeline.exporter import Exporter
from export_pipeline.packages.publish import package_folder
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.models import NewRequest
from export_pipeline.settings import Settings
from export_pipeline_tests.orchestration.conftest import RunBatch

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from export_pipeline_tests.s3_server import S3Server

pytest_plugins = "export_pipeline_tests.s3_server"


@pytest.fixture
def settings(mongo_uri: str, tmp_path: Path, s3_server: "S3Server", aws_keys: None) -> Settings:
    return Settings(
        home=tmp_path / "home",
        mongo_uri=mongo_uri,
        storage=f"s3://exports/{uuid4().hex}",
        s3_endpoint_url=s3_server.url,
        s3_region="us-east-1",
    )


def keys(client: "S3Client", settings: Settings) -> list[str]:
    prefix = settings.storage_root.removeprefix("s3://exports/")
    found: Any = client.list_objects_v2(Bucket="exports", Prefix=prefix).get("Contents", [])
    return [item["Key"].removeprefix(f"{prefix}/") for item in found]


def test_packages_go_to_s3_and_come_back_whole(
    shared_s3_client: "S3Client", exporter: Exporter, run_batch: RunBatch, demo: DemoData, tmp_path: Path
) -> None:
    uid = demo.small_uid
    new = [NewRequest(demo.app_ids[0], [uid], name) for name in ("json", "parquet", "bson")]
    requests = [exporter.submit(one) for one in new]
    assert run_batch(*(request.id for request in requests)).success
    for request in map(exporter.requests.get, (request.id for request in requests)):
        assert request.status == "completed"
        assert request.result_uri is not None
        assert request.result_uri.startswith(exporter.settings.storage_root)
        (copy,) = exporter.download(request, tmp_path / request.id)
        assert verify_package(copy).totals.documents_written == request.documents_done
        key = f"{package_folder(request)}/{request.result_uri.rpartition('/')[2]}"
        link = exporter.storage.link(key, timedelta(minutes=1), "mine", "application/octet-stream")
        assert link is not None
        with urllib.request.urlopen(link, timeout=30) as answer:
            assert answer.read() == copy.read_bytes()
    assert len(keys(shared_s3_client, exporter.settings)) == 2 * len(requests)  # no slice is left
    for request in requests:
        exporter.expire(exporter.requests.get(request.id))
    assert keys(shared_s3_client, exporter.settings) == []


def test_without_what_s3_needs_the_definitions_say_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from export_pipeline.definitions import build_defs
    from export_pipeline.errors import BadInputError

    monkeypatch.setitem(sys.modules, "dagster_aws.s3", None)
    with pytest.raises(BadInputError, match=r"pip install 'export-pipeline\[s3\]'"):
        build_defs(settings)
