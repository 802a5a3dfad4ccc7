"""Where a package goes, how its two files get there, and how they are fetched again.

The manifest is published last: it is the seal, and a package without one is not a package.
"""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.formats.registry import find_format, write_options
from export_pipeline.packages.hashing import sha256_of
from export_pipeline.packages.layers import extension_of
from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.naming import MANIFEST, first_name, manifest_name, part_path
from export_pipeline.requests.models import USER_EXPORT, Request
from export_pipeline.storage import PendingFile, Storage, create_file


@dataclass(frozen=True, slots=True)
class Target:
    """Where a package goes: how to begin its files and where they will be found, by name."""

    name: str
    """Of the file, where it is not split."""
    manifest_name: str
    create: Callable[[str], AbstractContextManager[PendingFile]]
    locate: Callable[[str], str]


def package_folder(request: Request) -> str:
    """Return the storage folder of a request's package."""
    return f"exports/{request.app_id}/{request.id}"


def storage_target(storage: Storage, request: Request) -> Target:
    """Return the place of a request's package in the storage."""
    folder = package_folder(request)
    extension = extension_of(find_format(request.options["format"]), write_options(request.options))
    return Target(
        name=f"export.{extension}",
        manifest_name=MANIFEST,
        create=lambda name: storage.create(f"{folder}/{name}"),
        locate=lambda name: storage.locate(f"{folder}/{name}"),
    )


def local_target(output: Path) -> Target:
    """Return the place of a package in a file outside the storage, its manifest beside it."""
    return Target(
        name=output.name,
        manifest_name=manifest_name(output.name),
        create=lambda name: create_file(output.with_name(name)),
        locate=lambda name: str(output.with_name(name)),
    )


def result_uri(target: Target, request: Request) -> str:
    """Return where a request's package is found: the file, or its first part."""
    return target.locate(
        first_name(target.name, find_format(request.options["format"]), write_options(request.options))
    )


def published(storage: Storage, request: Request) -> Manifest | None:
    """Return the manifest of a package that a former attempt published but did not live to record."""
    if not storage.exists(f"{package_folder(request)}/{MANIFEST}"):
        return None
    manifest = _manifest_of(storage, request)
    for part in manifest.parts:
        if not storage.exists(f"{package_folder(request)}/{part.name}"):
            return None
        with storage.open(f"{package_folder(request)}/{part.name}") as file:
            if sha256_of(file) != part.sha256:
                return None
    return manifest


def copy_package(storage: Storage, request: Request, output: Path | None) -> list[Path]:
    """Copy a completed package to ``output``, its manifest beside it; return where its files now are.

    Raises BadInputError unless the request is completed, IncompleteError where the copy is not the package.
    """
    if request.kind != USER_EXPORT:
        raise BadInputError(
            f"request {request.id} is no export but {request.kind}; a backup is for 'export-pipeline backup dump' or "
            "'restore'"
        )
    if request.status != "completed":
        raise BadInputError(f"request {request.id} is {request.status}; only a completed one can be downloaded")
    target = storage_target(storage, request)
    if result_uri(target, request) != request.result_uri:
        raise BadInputError(f"request {request.id} was written to a file by 'export', not to the storage")
    manifest = _manifest_of(storage, request)
    if manifest.file.sha256 != request.result_sha256:
        raise IncompleteError("the package in the storage is not the one that was published")
    output = (output or Path(target.name)).absolute()
    copies = [part_path(output, manifest, number) for number in range(len(manifest.parts))]
    for part, copy_to in zip(manifest.parts, copies, strict=True):
        _copy(storage, f"{package_folder(request)}/{part.name}", copy_to, part.sha256)
    _copy(storage, f"{package_folder(request)}/{MANIFEST}", output.with_name(manifest_name(output.name)), None)
    return copies


def _copy(storage: Storage, key: str, copy_to: Path, sha256: str | None) -> None:
    with storage.open(key) as source, create_file(copy_to) as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        with copy.read_back() as written:
            if sha256 is not None and sha256_of(written) != sha256:
                raise IncompleteError("the package in the storage is not the one that was published")
        copy.commit()


def _manifest_of(storage: Storage, request: Request) -> Manifest:
    with storage.open(f"{package_folder(request)}/{MANIFEST}") as seal:
        return Manifest.model_validate_json(seal.read())
