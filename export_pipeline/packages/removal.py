"""Removing what has served or must not stay: expired packages, what crashes left, and what a person or app leaves.

Files go first and the row after them: what is recorded as gone is not tried again.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from export_pipeline.errors import ExportPipelineError, StaleRequestError
from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.packages.publish import package_folder
from export_pipeline.requests.batches import made_at
from export_pipeline.requests.forgetting import names, without_people, without_person
from export_pipeline.requests.models import USER_EXPORT, Request
from export_pipeline.requests.store import RequestStore
from export_pipeline.slices.stored import SLICES, batch_folder
from export_pipeline.storage import Storage

log = logging.getLogger(__name__)

LEFT_ALONE_FOR = timedelta(hours=1)
"""A folder this young may belong to a worker that has not noticed yet that its request is over."""

WRITING_TAKES_AT_MOST = timedelta(days=1)
"""The age from which a half-written file has no writer any more."""

SECRETS_KEPT_FOR = timedelta(days=7)
"""After a request has failed, a retry finds its passphrase for this long."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed, and how often that failed."""

    slices: int
    packages: int
    files: int
    secrets: int
    problems: int


def discard_slices(requests: RequestStore, storage: Storage, batch_id: str) -> None:
    """Remove a batch's slices and plan, and forget their key."""
    storage.delete(batch_folder(batch_id))
    requests.secrets.forget([batch_id])


def expire(requests: RequestStore, storage: Storage, request: Request) -> bool:
    """Remove a completed request's package and record it; False, with the reason in the log, where that failed."""
    try:
        storage.delete(package_folder(request))
        requests.expire(request.id)
    except StaleRequestError:
        pass  # somebody else did it
    except ExportPipelineError as error:
        log.error("request %s: its package could not be removed: %s", request.id, error)
        return False
    return True


def sweep(requests: RequestStore, storage: Storage, now: datetime | None = None) -> Swept:
    """Remove what crashed or cancelled work left: slices, folders that hold no package, half-written files, secrets.

    Goes on where something cannot be removed, and counts it.
    """
    now = now or datetime.now(UTC)
    problems = 0

    def tried(what: str, remove: Callable[[], None]) -> bool:
        nonlocal problems
        try:
            remove()
        except ExportPipelineError as error:
            log.error("%s could not be removed: %s", what, error)
            problems += 1
            return False
        return True

    slices = [batch_folder(batch_id) for batch_id in stale_batches(storage.folders(SLICES), requests, now)]
    packages = [package_folder(request) for request in _without_package(requests, storage, now)]
    removed = [key for key in (*slices, *packages) if tried(key, lambda key=key: storage.delete(key))]  # type: ignore[misc]
    files: list[str] = []
    tried("half-written files", lambda: files.extend(storage.sweep(WRITING_TAKES_AT_MOST)))
    secrets = requests.forget_stale_secrets(now - SECRETS_KEPT_FOR)
    return Swept(
        slices=sum(key in removed for key in slices),
        packages=sum(key in removed for key in packages),
        files=len(files),
        secrets=secrets,
        problems=problems,
    )


def stale_batches(batch_ids: Iterable[str], requests: RequestStore, now: datetime) -> list[str]:
    """Return those of the batches that have no running request, and have been there for a while."""
    old = [batch_id for batch_id in batch_ids if _age(batch_id, now) > LEFT_ALONE_FOR]
    live = requests.live_batches() if old else set()
    return [batch_id for batch_id in old if batch_id not in live]


def _age(batch_id: str, now: datetime) -> timedelta:
    made = made_at(batch_id)
    return timedelta(0) if made is None else now - made  # what we have not named, we leave alone


def _without_package(requests: RequestStore, storage: Storage, now: datetime) -> list[Request]:
    """Return the requests that have a folder and should not: over for a while, and not completed."""
    found: list[Request] = []
    for app_id in storage.folders("exports"):
        ids = storage.folders(f"exports/{app_id}")
        for start in range(0, len(ids), 500):
            found += [
                request
                for request in requests.known(ids[start : start + 500]).values()
                if request.status in ("failed", "cancelled", "expired") and now - request.updated_at > LEFT_ALONE_FOR
            ]
    return found


def forget(requests: RequestStore, storage: Storage, app_id: str, uid: str | None, actor: str) -> int:
    """Remove at once all that was exported of an app, or of one of its users; return how many requests that concerned.

    Live requests are cancelled. Rows stay as history, without the person; backups stay. A batch that serves others
    too keeps its slices until it ends. A request that searched for its person is only found by the uids in its
    package's manifest.
    Raises StorageError where a package cannot be removed; then its row is as it was.
    """
    exports = [request for request in requests.of_app(app_id) if request.kind == USER_EXPORT]
    concerned = [request for request in exports if uid is None or _is_about(storage, request, uid)]
    for request in concerned:
        _forget_one(requests, storage, request, uid, actor)
    return len(concerned)


def _is_about(storage: Storage, request: Request, uid: str) -> bool:
    """Tell whether a request, or what its package says of merged uids, names the person."""
    if names(request, uid):
        return True
    seal = f"{package_folder(request)}/{MANIFEST}"
    if request.status != "completed" or not storage.exists(seal):
        return False
    with storage.open(seal) as file:
        users = Manifest.model_validate_json(file.read()).users
    return uid in (*users.uids, *users.merged_uids)


def _forget_one(requests: RequestStore, storage: Storage, request: Request, uid: str | None, actor: str) -> None:
    if request.is_live:
        try:
            request = requests.cancel(request.id, actor)
        except StaleRequestError:
            request = requests.get(request.id)  # it has just finished
    storage.delete(package_folder(request))
    if request.batch_id is not None and request.batch_id not in requests.live_batches():
        discard_slices(requests, storage, request.batch_id)
    if requests.get(request.id).status == "completed":
        requests.expire(request.id, actor)
    # One that names the person by another uid is about nobody else either.
    alone = uid is None or not names(request, uid)
    requests.rewrite_selection(
        request.id, without_people if alone else lambda selection: without_person(selection, str(uid)), actor
    )
