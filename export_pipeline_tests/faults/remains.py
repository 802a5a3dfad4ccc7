"""What is there once all requests have ended: what they asked for, whole and once each, and nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from export_pipeline.backups import removal as backup_removal
from export_pipeline.exporter import Exporter
from export_pipeline.orchestration import schedules
from export_pipeline.orchestration.names import BATCH_PARTITIONS
from export_pipeline.packages import removal
from export_pipeline.requests.models import Request
from export_pipeline.requests.schema import kept_secrets
from export_pipeline_tests import s3_server
from export_pipeline_tests.faults.house import House
from export_pipeline_tests.faults.tasks import Task

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


def examine(house: House, task: Task, requests: Sequence[Request]) -> Remains:
    """Sweep, look at everything there is, then remove what the requests have made."""
    before = set(stored_files(house))
    sweep(house)
    now = house.rows(requests)
    files = set(stored_files(house))
    completed = [request for request in now if request.status == "completed"]
    lost = [f"{request.id}: {reason}" for request in completed if (reason := task.what_is_wrong(house, request))]
    expected = house.kept | {path for request in completed for path in task.files_of(house, request)}
    leftovers = [*sorted(files - expected), *uploads(house), *secrets(house), *partitions(house, completed)]
    doubled = [request.id for request in now if completions(house, request) > (request.status == "completed")]
    for request in completed:
        task.remove(house, request)
    sweep(house)
    left = (*sorted(set(stored_files(house)) - house.kept), *partitions(house, []))
    leftovers += [f"after its expiry: {path}" for path in left]
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
        patch.setattr(backup_removal, "LEFT_FOR_A_RETRY", LONG_AGO)
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


def completions(house: House, request: Request) -> int:
    """Return how often a request was completed."""
    return sum(event["event"] == "completed" for event in house.exporter.requests.events(request.id))
