"""Removing backups: those that have served, and what failed ones left.

Files go first and the row after them: what is recorded as gone is not tried again.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta

from export_pipeline.backups.present import BackupReader
from export_pipeline.errors import BadInputError, ExportPipelineError, StaleRequestError
from export_pipeline.installation import Installation
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.requests.backups import KIND
from export_pipeline.requests.models import ALL_APPS, Request
from export_pipeline.requests.store import RequestStore
from export_pipeline.storage import Storage, open_storage

log = logging.getLogger(__name__)

LEFT_FOR_A_RETRY = timedelta(days=1)
"""How long a failed backup's parts stay: one that is tried again writes only what is missing."""

FOLDER_OF_ALL_APPS = "all.apps"  # no app's id has a dot


def backup_folder(request: Request) -> str:
    """Return the storage folder of a backup."""
    return f"{_app_folder(request.app_id)}/{request.id}"


def storage_of(installation: Installation, request: Request) -> Storage:
    """Return the storage that a backup is in: the one that it names, or the installation's."""
    return storage_at(installation, request.options.get("storage"))


def storage_at(installation: Installation, root: str | None) -> Storage:
    """Return the storage at a root, reached as the settings say; None: the installation's."""
    settings = installation.settings
    if root is None or root == settings.storage_root:
        return installation.storage
    return open_storage(
        root,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        sse=settings.s3_sse,
        sse_kms_key_id=settings.s3_sse_kms_key_id,
    )


class StillNeededError(BadInputError):
    """Another backup builds on this one, or a restore reads it."""

    code = "still_needed"


def remove_by_hand(installation: Installation, backup_id: str) -> None:
    """Remove a completed backup. Raises StillNeededError, and what ``remove_backup`` does."""
    request = installation.requests.known([backup_id]).get(backup_id)
    if request is None or request.kind != KIND:
        raise BadInputError("no backup has this id; 'export-pipeline status' lists the latest ones")
    reader = BackupReader(installation.database)
    if request.id in reader.read_by_restores():
        raise StillNeededError(f"backup {request.id} is being restored; wait until that is done")
    for other in reader.present():
        if other.options.get("base") == request.id:
            raise StillNeededError(f"backup {other.id} builds on {request.id}; remove that one first")
    remove_backup(installation.requests, storage_of(installation, request), request)


def remove_backup(requests: RequestStore, storage: Storage, request: Request) -> None:
    """Remove a completed backup's files, and record it as expired; one that is already is left alone.

    Raises StaleRequestError for one in any other state, StorageError where its files cannot be removed: then it is
    still to be removed.
    """
    request = requests.get(request.id)
    if request.status == "expired":
        return
    if request.status != "completed":
        raise StaleRequestError(f"backup {request.id} is {request.status}; only a completed one can be removed")
    _remove_files(storage, request)
    with suppress(StaleRequestError):  # somebody else has just done it
        requests.expire(request.id)


def sweep_backups(installation: Installation, now: datetime) -> list[str]:
    """Remove what backups left, in all places, that have failed or were cancelled a while ago; return their ids.

    Goes on where something cannot be removed, with the reason in the log. A folder that no backup is known by stays.
    """
    removed: list[str] = []
    for root in (None, *BackupReader(installation.database).storages()):
        try:
            storage = storage_at(installation, root)
            for request in _leftovers(installation.requests, storage, now):
                _remove_files(storage, request)
                removed.append(request.id)
        except ExportPipelineError as error:
            log.error("what failed backups left could not be removed: %s", error)
    return removed


def _leftovers(requests: RequestStore, storage: Storage, now: datetime) -> Iterator[Request]:
    for app in storage.folders("backups"):
        ids = storage.folders(f"backups/{app}")
        for start in range(0, len(ids), 500):
            known = requests.known(ids[start : start + 500])
            yield from (request for request in known.values() if is_leftover(request, now))


def is_leftover(request: Request, now: datetime) -> bool:
    """Tell whether a backup's files have no use any more, although nothing is recorded of their removal."""
    return request.status in ("failed", "cancelled", "expired") and now - request.updated_at > LEFT_FOR_A_RETRY


def _remove_files(storage: Storage, request: Request) -> None:
    # The seal goes first: what a crash leaves is not taken for a backup.
    storage.delete(f"{backup_folder(request)}/{MANIFEST}")
    storage.delete(backup_folder(request))


def _app_folder(app_id: str) -> str:
    return f"backups/{FOLDER_OF_ALL_APPS if app_id == ALL_APPS else app_id}"
