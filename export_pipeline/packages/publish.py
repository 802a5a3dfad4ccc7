"""Where a package goes, how its two files get there, and how they are fetched again.

The manifest is published last: it is the seal, and a package without one is not a package.
"""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.formats.registry import find_format
from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.verify import MANIFEST, manifest_path, sha256_of
from export_pipeline.requests.models import Request
from export_pipeline.storage import PendingFile, Storage, create_file


@dataclass(frozen=True, slots=True)
class Target:
    """Where a package goes: how to begin its two files, and what the file is called and found at."""

    create_file: Callable[[], AbstractContextManager[PendingFile]]
    create_manifest: Callable[[], AbstractContextManager[PendingFile]]
    name: str
    uri: str


def package_folder(request: Request) -> str:
    """Return the storage folder of a request's package."""
    return f"exports/{request.app_id}/{request.id}"


def storage_target(storage: Storage, request: Request) -> Target:
    """Return the place of a request's package in the storage."""
    folder = package_folder(request)
    name = f"export.{find_format(request.options['format']).extension}"
    return Target(
        create_file=partial(storage.create, f"{folder}/{name}"),
        create_manifest=partial(storage.create, f"{folder}/{MANIFEST}"),
        name=name,
        uri=storage.locate(f"{folder}/{name}"),
    )


def local_target(output: Path) -> Target:
    """Return the place of a package in a file outside the storage, its manifest beside it."""
    return Target(
        create_file=partial(create_file, output),
        create_manifest=partial(create_file, manifest_path(output)),
        name=output.name,
        uri=str(output),
    )


def published(storage: Storage, request: Request) -> Manifest | None:
    """Return the manifest of a package that a former attempt published but did not live to record."""
    key = f"{package_folder(request)}/{MANIFEST}"
    if not storage.exists(key):
        return None
    with storage.open(key) as seal:
        manifest = Manifest.model_validate_json(seal.read())
    with storage.open(f"{package_folder(request)}/{manifest.file.name}") as file:
        intact = sha256_of(file) == manifest.file.sha256
    return manifest if intact else None


def copy_package(storage: Storage, request: Request, output: Path | None) -> Path:
    """Copy a completed package to ``output``, its manifest beside it; return where the file now is.

    Raises BadInputError unless the request is completed, IncompleteError where the copy is not the package.
    """
    if request.status != "completed":
        raise BadInputError(f"request {request.id} is {request.status}; only a completed one can be downloaded")
    target = storage_target(storage, request)
    if target.uri != request.result_uri:
        raise BadInputError(f"request {request.id} was written to a file by 'export', not to the storage")
    output = output or Path(target.name)
    for key, copy_to in ((target.name, output), (MANIFEST, manifest_path(output))):
        with storage.open(f"{package_folder(request)}/{key}") as source, create_file(copy_to.absolute()) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            with copy.read_back() as written:
                if copy_to == output and sha256_of(written) != request.result_sha256:
                    raise IncompleteError("the package in the storage is not the one that was published")
            copy.commit()
    return output
