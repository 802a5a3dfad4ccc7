"""A request's package in the storage, as it is handed over by HTTP: which file, under which name, and whether it is."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from export_pipeline.errors import StaleRequestError
from export_pipeline.formats.registry import find_format, write_options
from export_pipeline.gateway.problems import ProblemError, not_found
from export_pipeline.packages.layers import media_type_of
from export_pipeline.packages.naming import MANIFEST, part_name
from export_pipeline.packages.publish import package_folder, result_uri, storage_target
from export_pipeline.requests.models import Request
from export_pipeline.requests.store import RequestStore
from export_pipeline.storage import Storage


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file of a package."""

    key: str
    name: str
    """For whoever saves it; it names no person."""
    media_type: str
    etag: str
    """Strong, and quoted, as HTTP has it."""
    size: int | None
    """As the row says, in bytes; None for the parts of a split package, of which it knows the sum."""


def is_ready(storage: Storage, request: Request, now: datetime | None = None) -> bool:
    """Tell whether the package is in the storage, for the gateway to hand over."""
    return (
        request.status == "completed"
        and (request.expires_at is None or (now or datetime.now(UTC)) < request.expires_at)
        and request.result_uri == result_uri(storage_target(storage, request), request)
    )


def package_file(storage: Storage, request: Request, part: int) -> PackageFile:
    """Return a package's file, or that part of it. Raises a Problem where there is none, with the reason."""
    _refuse_unready(storage, request)
    format_, options = find_format(request.options["format"]), write_options(request.options)
    whole = storage_target(storage, request).name
    if part and not options.split_bytes:
        raise not_found()
    name = part_name(whole, part, format_, options) if options.split_bytes else whole
    return PackageFile(
        key=f"{package_folder(request)}/{name}",
        name=f"export-{request.id}{name.removeprefix('export')}",
        media_type=media_type_of(format_, options),
        etag=f'"{request.result_sha256}-{part}"' if options.split_bytes else f'"{request.result_sha256}"',
        size=None if options.split_bytes else request.result_bytes,
    )


def manifest_file(storage: Storage, request: Request) -> PackageFile:
    """Return a package's manifest. Raises as ``package_file`` does."""
    _refuse_unready(storage, request)
    return PackageFile(
        key=f"{package_folder(request)}/{MANIFEST}",
        name=f"export-{request.id}.{MANIFEST}",
        media_type="application/json",
        etag=f'"{request.result_sha256}-manifest"',
        size=None,
    )


def remove_package(requests: RequestStore, storage: Storage, request: Request, actor: str) -> None:
    """Remove a finished request's package, and record it. The files go first: what is recorded is gone."""
    storage.delete(package_folder(request))
    if request.status == "completed":
        with suppress(StaleRequestError):  # it has expired in this very moment
            requests.expire(request.id, actor, event="deleted")


def _refuse_unready(storage: Storage, request: Request) -> None:
    if is_ready(storage, request):
        return
    if request.status in ("completed", "expired") and request.result_uri is not None and request.expires_at is None:
        raise ProblemError(409, "not_here", "this export was written to a file by the command line, not to the storage")
    if request.status in ("completed", "expired"):
        raise ProblemError(410, "expired", "this export's file is not kept any more; ask for a new export")
    raise ProblemError(409, "not_ready", f"this export is {request.status}; only a completed one can be downloaded")
