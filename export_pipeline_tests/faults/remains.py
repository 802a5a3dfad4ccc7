"""What is there once all requests have ended: their packages, whole and once each, and nothing else."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from export_pipeline.errors import ExportPipelineError
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration import schedules
from export_pipeline.orchestration.names import BATCH_PARTITIONS
from export_pipeline.packages import removal
from export_pipeline.packages.layers import Keys
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.packages.publish import package_folder, published
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.models import Request
from export_pipeline.requests.schema import kept_secrets
from export_pipeline_tests import s3_server
from export_pipeline_tests.faults.house import COLLECTIONS, House

LONG_AGO = timedelta(days=-1)
"""As an age that everything has: what waits for an hourly sweep need not wait here."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What was found of some requests. ``swept`` is what the hourly sweep found to do, which is no fault."""

    published: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    swept: int = 0


def examine(house: House, requests: Sequence[Request], documents: int) -> Remains:
    """Sweep, look at everything there is, then let the packages expire; ``documents`` is what each request is for."""
    before = set(stored_files(house))
    sweep(house)
    now = house.rows(requests)
    files = set(stored_files(house))
    completed = [request for request in now if request.status == "completed"]
    lost = [f"{request.id}: {reason}" for request in completed if (reason := what_is_wrong(house, request, documents))]
    expected = {path for request in completed for path in files_of(house, request)}
    leftovers = [*sorted(files - expected), *uploads(house), *secrets(house), *partitions(house, completed)]
    doubled = [request.id for request in now if completions(house, request) > (request.status == "completed")]
    for request in completed:
        house.exporter.expire(request)
    sweep(house)
    leftovers += [f"after its expiry: {path}" for path in (*stored_files(house), *partitions(house, []))]
    return Remains(len(completed) - len(lost), lost, doubled, leftovers, len(before - files))


def sweep(house: House, exporter: Exporter | None = None) -> None:
    """Run the hourly job as it is, but without waiting for what it removes to become old."""
    with _no_waiting():
        done = schedules.expire_packages.execute_in_process(
            instance=house.instance,
            resources={"exporter": exporter or house.exporter},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    if not done.success:
        raise RuntimeError(f"the sweep failed: see run {done.run_id} of {house.folder}")


@contextmanager
def _no_waiting() -> Iterator[None]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("LEFT_ALONE_FOR", "WRITING_TAKES_AT_MOST", "SECRETS_KEPT_FOR"):
            assert getattr(removal, name) > timedelta(0)
            patch.setattr(removal, name, LONG_AGO)
        yield


def stored_files(house: House) -> list[str]:
    """Return the keys of all files in the storage, half-written ones included."""
    if house.store == "directory":
        root = Path(house.settings.storage_root)
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()]
    client = s3_server.client_with_keys(str(house.settings.s3_endpoint_url))
    bucket, _, prefix = house.settings.storage_root.removeprefix("s3://").partition("/")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"].removeprefix(f"{prefix}/") for page in pages for item in page.get("Contents", ())]


def uploads(house: House) -> list[str]:
    """Return the multipart uploads that nobody has ended."""
    if house.store == "directory":
        return []
    client = s3_server.client_with_keys(str(house.settings.s3_endpoint_url))
    with suppress(client.exceptions.NoSuchUpload):  # which is what rclone says where there never was one
        listed = client.list_multipart_uploads(Bucket=s3_server.BUCKET).get("Uploads", [])
        return [f"upload of {upload['Key']}" for upload in listed]
    return []


def secrets(house: House) -> list[str]:
    """Return the owners of secrets that are kept."""
    with house.exporter.requests._reading() as connection:
        return [f"secret of {owner}" for owner in connection.execute(select(kept_secrets.c.owner)).scalars()]


def partitions(house: House, completed: Sequence[Request]) -> list[str]:
    """Return the partitions that serve none of the completed requests."""
    known = house.instance.get_dynamic_partitions(str(BATCH_PARTITIONS.name))
    return [f"partition {key}" for key in known if key not in {request.batch_id for request in completed}]


def files_of(house: House, request: Request) -> list[str]:
    """Return the keys of a whole package's files; none of one that is not whole."""
    manifest = published(house.exporter.storage, request)
    folder = package_folder(request)
    return [f"{folder}/{MANIFEST}", *(f"{folder}/{part.name}" for part in manifest.parts)] if manifest else []


def what_is_wrong(house: House, request: Request, documents: int) -> str | None:
    """Fetch a package as a user would and check it: against its manifest, its row, and what MongoDB really holds."""
    keys = Keys([house.identity]) if request.options.get("recipients") else Keys()
    with tempfile.TemporaryDirectory() as folder:
        try:
            (package,) = house.exporter.download(request, Path(folder) / "package")
            manifest = verify_package(package, keys)
        except ExportPipelineError as error:
            return f"{error.code}: {error}"
    held = Counter({report.name: report.documents_written for report in manifest.collections})
    if set(held.values()) != {documents // COLLECTIONS} or len(held) != COLLECTIONS:
        return f"its collections hold {sorted(held.values())} documents"
    if (manifest.file.sha256, manifest.totals.documents_written) != (request.result_sha256, request.documents_done):
        return "its row is about another file"
    return None


def completions(house: House, request: Request) -> int:
    """Return how often a request was completed."""
    return sum(event["event"] == "completed" for event in house.exporter.requests.events(request.id))
