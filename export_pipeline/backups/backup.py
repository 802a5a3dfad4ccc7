"""The steps of a backup, put together once for all who take them: Dagster and the command line.

Plan, write each part, seal. Each step can run twice, anywhere: a plan and finished parts are taken up, and a sealed
backup is not made again.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

from pydantic import ValidationError

from export_pipeline.backups.form import check_form, check_incremental
from export_pipeline.backups.manifest import BackupManifest, BackupOptions
from export_pipeline.backups.plan import BackupPlan, PlannedPart
from export_pipeline.backups.planning import LANES, Wanted, make_plan
from export_pipeline.backups.removal import backup_folder, storage_of
from export_pipeline.backups.seal import PLAN, manifest_sha256, remove_working_files, seal
from export_pipeline.backups.verify import load_manifest
from export_pipeline.backups.working import at_work
from export_pipeline.backups.write import PartRecord, load_record, write_part
from export_pipeline.errors import BadInputError
from export_pipeline.installation import Installation
from export_pipeline.mongo.connection import SnapshotTooOldError
from export_pipeline.mongo.snapshot import SnapshotReader
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.requests.backups import BackupRequests, NewBackup
from export_pipeline.requests.leases import Lease
from export_pipeline.requests.models import Request
from export_pipeline.requests.progress import Progress
from export_pipeline.settings import Settings
from export_pipeline.storage import Storage

log = logging.getLogger(__name__)

LATEST = "latest"
"""In the place of a base's id: the newest backup of the app that this one can be made on."""

MOST_PROCESSES = 16


class Backups:
    """The steps of an installation's backups."""

    def __init__(self, installation: Installation) -> None:
        self._at = installation
        self.requests = BackupRequests.beside(installation.requests)

    def submit(self, new: NewBackup, *, run_here: bool = False) -> Request:
        """Insert a checked request. Raises BadInputError, and BackupUnderWayError while the app has another."""
        options = check_form(new.form)
        new = replace(new, form=options.model_dump(mode="json"))
        if new.base is not None:
            check_incremental(options)
            base = self._latest_base(new, options) if new.base == LATEST else new.base
            if base is not None and new.base != LATEST:
                self._base_of_id(new.app_id, base, new.storage)
            new = replace(new, base=base)
        return self.requests.submit(new, run_here=run_here)

    def plan(self, request: Request, on_pause: Callable[[], None] = lambda: None) -> BackupPlan:
        """Plan a backup, or take up the plan that a former attempt stored, while the server still has its moment.

        Where it has not, all that was written is removed: parts of two moments must never meet in one backup.
        """
        storage, folder = self._place(request)
        stored = self._stored_plan(storage, folder)
        if stored is not None and self._can_still_read(stored):
            return stored
        storage.delete(folder)
        wanted = Wanted(request.id, request.app_id, _options(request))
        if request.options.get("base"):
            base, sha256 = self._base_of_id(
                request.app_id, str(request.options["base"]), request.options.get("storage")
            )
            wanted = replace(wanted, base=base, base_sha256=sha256)
        plan = make_plan(self._at.client, self._at.settings, self._at.catalog, wanted, on_pause)
        with storage.create(f"{folder}/{PLAN}") as file:
            file.write(plan.model_dump_json().encode())
            file.commit()
        return plan

    def load_plan(self, request: Request) -> BackupPlan:
        """Return the plan that ``plan`` stored. Raises StorageError where there is none."""
        storage, folder = self._place(request)
        with storage.open(f"{folder}/{PLAN}") as file:
            return BackupPlan.model_validate_json(file.read())

    def write_part(
        self,
        request: Request,
        plan: BackupPlan,
        part: PlannedPart,
        on_documents: Callable[[int], None] = lambda _: None,
    ) -> PartRecord:
        """Write one planned part; a finished one is taken up. See ``write.write_part`` for what it raises."""
        storage, folder = self._place(request)
        return write_part(self._at.client, self._at.settings, storage, folder, plan, part, on_documents)

    def is_written(self, request: Request, plan: BackupPlan, part: PlannedPart) -> bool:
        """Tell whether a planned part is finished."""
        storage, folder = self._place(request)
        return load_record(storage, folder, plan, part) is not None

    def seal(self, request: Request, plan: BackupPlan, on_part: Callable[[], None] = lambda: None) -> BackupManifest:
        """Check all parts and publish the manifest; of a sealed backup, return it."""
        storage, folder = self._place(request)
        return self.sealed(request) or seal(storage, folder, plan, request, on_part)

    def sealed(self, request: Request) -> BackupManifest | None:
        """Return the manifest of a backup that a former attempt sealed but did not live to record."""
        storage, folder = self._place(request)
        return load_manifest(storage, folder) if storage.exists(f"{folder}/{MANIFEST}") else None

    def complete(self, request: Request, manifest: BackupManifest) -> None:
        """Record a sealed backup. Raises StaleRequestError unless the request still runs in its batch."""
        storage, folder = self._place(request)
        remove_working_files(storage, folder)  # here, since who sealed it may not have lived to do so
        with storage.open(f"{folder}/{MANIFEST}") as file:
            sha256 = manifest_sha256(file.read())
        self._at.requests.complete(
            request.id,
            str(request.batch_id),
            documents=manifest.totals.documents,
            result_uri=storage.locate(f"{folder}/{MANIFEST}"),
            result_bytes=manifest.totals.file_bytes,
            result_sha256=sha256,
            expires_at=None,
        )

    def run(
        self, request: Request, processes: int = 1, on_progress: Callable[[int, int], None] = lambda _, __: None
    ) -> BackupManifest:
        """Take a running request through all steps; return its manifest.

        ``on_progress`` is called with the documents written so far, and those expected. Where the server loses the
        moment on the way, everything is read anew, once. Raises what made it fail, after recording it.
        """
        with at_work(self._at.requests, request, "backup") as lease:
            manifest = self.sealed(request)
            if manifest is None:
                try:
                    manifest = self._make(request, lease, processes, on_progress)
                except SnapshotTooOldError:
                    log.warning("backup %s: the server no longer has the chosen moment; starting over", request.id)
                    manifest = self._make(request, lease, processes, on_progress)
            self.complete(request, manifest)
        return manifest

    def _make(
        self, request: Request, lease: Lease, processes: int, on_progress: Callable[[int, int], None]
    ) -> BackupManifest:
        plan = self.plan(request, lease.check)
        self._at.requests.set_totals(str(request.batch_id), {request.id: plan.expected})
        expected = {each.name: each.expected or 0 for each in plan.collections}
        noted = Progress(self._at.requests, request.id, str(request.batch_id), expected)
        done = written = 0
        with self._writing(request, plan, processes, lease) as work:
            for record in work:
                lease.check()
                done += record.documents
                written += sum(file.file_bytes for file in record.files)
                noted(done, written)
                on_progress(done, plan.expected)
        return self.seal(request, plan)

    @contextmanager
    def _writing(
        self, request: Request, plan: BackupPlan, processes: int, lease: Lease
    ) -> Iterator[Iterator[PartRecord]]:
        """Write all parts at once, as far as threads and processes go; yields their records as they are finished."""
        executor: Executor
        task: Callable[[PlannedPart], PartRecord]
        if processes == 1 or plan.options.format == "bson":
            # BSON is read, hashed, compressed and written outside of Python's lock: threads are as good as processes.
            executor = ThreadPoolExecutor(processes * LANES)
            task = partial(self.write_part, request, plan, on_documents=lambda _: lease.check())
        else:
            executor = ProcessPoolExecutor(processes, get_context("spawn"))
            task = partial(_write_elsewhere, self._at.settings, request, plan)
        with executor:
            futures: list[Future[PartRecord]] = [executor.submit(task, part) for part in plan.parts]
            try:
                yield (future.result() for future in as_completed(futures))
            except BaseException:
                executor.shutdown(wait=True, cancel_futures=True)
                raise

    def _place(self, request: Request) -> tuple[Storage, str]:
        return storage_of(self._at, request), backup_folder(request)

    def _stored_plan(self, storage: Storage, folder: str) -> BackupPlan | None:
        if not storage.exists(f"{folder}/{PLAN}"):
            return None
        with storage.open(f"{folder}/{PLAN}") as file:
            try:
                return BackupPlan.model_validate_json(file.read())
            except ValidationError:  # another version's
                return None

    def _can_still_read(self, plan: BackupPlan) -> bool:
        if plan.cluster_time is None:
            return False  # what was read in turn is not continued
        source = next((each.source for each in plan.collections if each.point_in_time and each.uuid), None)
        if source is None:
            return False
        reader = SnapshotReader(self._at.client, plan.cluster_time, self._at.settings.read_timeout)
        try:
            next(iter(reader.raw_batches(source, {}, {"_id": 1}, limit=1)), None)
        except SnapshotTooOldError:
            return False
        return True

    def _latest_base(self, new: NewBackup, options: BackupOptions) -> str | None:
        for request in self.requests.completed(new.app_id):
            if (request.options.get("storage"), _options(request)) == (new.storage, options):
                return request.id
        return None

    def _base_of_id(self, app_id: str, base: str, storage: str | None) -> tuple[BackupManifest, str]:
        """Return a base's manifest and its SHA-256. Raises BadInputError where it is not there."""
        request = self._at.requests.known([base]).get(base)
        if request is None or request.app_id != app_id or request.status != "completed":
            raise BadInputError("base: this app has no such backup; name the id of a completed one")
        if request.options.get("storage") != storage:
            raise BadInputError("base: it is in another storage; a backup and its base lie side by side")
        at, folder = self._place(request)
        manifest = load_manifest(at, folder)
        with at.open(f"{folder}/{MANIFEST}") as file:
            return manifest, manifest_sha256(file.read())


def _options(request: Request) -> BackupOptions:
    form: Mapping[str, Any] = request.options
    return BackupOptions.model_validate({name: form[name] for name in BackupOptions.model_fields if name in form})


_here: dict[str, Backups] = {}
"""In a process that writes parts for another: its one installation, opened once."""


def _write_elsewhere(settings: Settings, request: Request, plan: BackupPlan, part: PlannedPart) -> PartRecord:
    if not _here:
        _here[""] = Backups(Installation(settings))
    return _here[""].write_part(request, plan, part)
