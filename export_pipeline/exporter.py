"""The steps from a request to its package, put together once for all who take them: Dagster and the command line.

Each step can run twice: a plan and finished slices are taken up, a published package is not published again.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from export_pipeline.encryption.age import new_identity, parse_identities
from export_pipeline.errors import ExportPipelineError, StaleRequestError, StorageError
from export_pipeline.formats.registry import write_options
from export_pipeline.mongo.connection import SnapshotTooOldError
from export_pipeline.packages.layers import is_encrypted
from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.publish import copy_package
from export_pipeline.packages.together import groups
from export_pipeline.requests.leases import Lease
from export_pipeline.requests.models import Request
from export_pipeline.requests.progress import ReadingProgress
from export_pipeline.settings import Settings
from export_pipeline.slices.batch_slices import BatchSlices
from export_pipeline.slices.plan import BatchPlan, Wanted, load_plan, make_plan, plan_key, store_plan
from export_pipeline.slices.read import OnRead, read_slice
from export_pipeline.slices.slice_file import SliceIndex, load_index
from export_pipeline.slices.stored import batch_folder
from export_pipeline.steps.asking import Asking
from export_pipeline.steps.packaging import InternalError, Outcome, Packaging
from export_pipeline.storage import Storage
from export_pipeline.storage.sealed import SealedStorage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Exporter", "InternalError", "InterruptedExportError", "Outcome"]

log = logging.getLogger(__name__)

PLAN_IS_FRESH = timedelta(minutes=4)
"""For how long a stored plan may still be read at: the server keeps 5 minutes of history by default."""


class InterruptedExportError(ExportPipelineError):
    """The process was told to stop."""

    code = "interrupted"


class Exporter(Asking, Packaging):
    """The steps of an installation's exports."""

    def __init__(self, settings: Settings, s3_client: "S3Client | None" = None) -> None:
        super().__init__(settings, s3_client)
        self._leases: dict[str, Lease] = {}
        self._reading: dict[str, ReadingProgress] = {}

    def discard_slices(self, batch_id: str) -> None:
        """Remove the batch's slices and plan; they hold personal data and have served."""
        self._reading.pop(batch_id, None)
        super().discard_slices(batch_id)

    @contextmanager
    def _at_work(self, batch_id: str) -> Iterator[Lease]:
        """Show signs of life for a batch; a signal that ends the work is recorded on the way out."""
        if batch_id in self._leases:
            yield self._leases[batch_id]  # a step within a step
            return
        with Lease(self.requests, batch_id) as lease:
            self._leases[batch_id] = lease
            try:
                yield lease
            except (Exception, GeneratorExit):
                raise
            except BaseException:
                with suppress(ExportPipelineError):  # then the reconciler finds it
                    self.fail_batch(batch_id, InterruptedExportError("the process was told to stop"))
                raise
            finally:
                del self._leases[batch_id]

    def plan(self, batch_id: str) -> BatchPlan:
        """Plan the batch's running requests, or take up the plan that a former run made a moment ago.

        A request that cannot be planned fails alone. What makes planning impossible fails all, and is raised.
        """
        with self._at_work(batch_id):
            return self._plan(batch_id)

    def _plan(self, batch_id: str) -> BatchPlan:
        running = [request for request in self.requests.of_batch(batch_id) if request.status == "running"]
        if not running:
            raise StaleRequestError(f"batch {batch_id} has no running request; ask for a new export instead")
        try:
            stored = self._stored_plan(batch_id)
            return stored or self._make_plan(batch_id, running)
        except ExportPipelineError as error:
            self.fail_batch(batch_id, error)
            raise

    def _stored_plan(self, batch_id: str) -> BatchPlan | None:
        if not self.storage.exists(plan_key(batch_id)):
            return None
        plan = self.load_plan(batch_id)
        return plan if datetime.now(UTC) - plan.planned_at < PLAN_IS_FRESH else None

    def _make_plan(self, batch_id: str, running: Sequence[Request], restarts: int = 0) -> BatchPlan:
        # Slices of two moments must never meet in one package.
        self.storage.delete(batch_folder(batch_id))
        self._seal_slices(batch_id, running)
        plan, unplanned = make_plan(
            self.client,
            self.settings,
            self.catalog,
            batch_id,
            running[0].app_id,
            running[0].narrowing,
            [
                Wanted(
                    request.id,
                    request.selection.get("uids", ()),
                    request.selection.get("person"),
                    request.selection.get("max_users", 1),
                )
                for request in running
            ],
        )
        for request_id, error in unplanned.items():
            self._fail(request_id, batch_id, error)
        if not plan.requests:
            raise next(iter(unplanned.values()))
        plan = plan.model_copy(update={"restarts": restarts})
        store_plan(self.slices_of(batch_id), plan)
        self.requests.set_totals(batch_id, {request.id: plan.expected_of(request.id) for request in plan.requests})
        return plan

    def load_plan(self, batch_id: str) -> BatchPlan:
        """Return the plan that ``plan`` stored."""
        return load_plan(self.slices_of(batch_id), batch_id)

    def slices_of(self, batch_id: str) -> Storage:
        """Return where the batch's plan and slices are: sealed, if one of its requests is for an encrypted package."""
        secret = self.requests.secrets.find(batch_id)
        return self.storage if secret is None else SealedStorage(self.storage, parse_identities(secret)[0])

    def _seal_slices(self, batch_id: str, running: Sequence[Request]) -> None:
        """Make the key of the batch's slices, where a request must leave nothing plain on the host."""
        if any(is_encrypted(write_options(request.options)) for request in running):
            self.requests.secrets.keep(batch_id, new_identity().secret)

    def read_slice(self, plan: BatchPlan, name: str, on_read: OnRead = lambda _: None) -> SliceIndex:
        """Read one collection for the whole batch; see ``slices.read``. What it raises fails the batch's requests."""
        try:
            with self._at_work(plan.batch_id) as lease:
                lease.check()
                return self._read_slice(plan, name, on_read, lease)
        except ExportPipelineError as error:
            self.fail_batch(plan.batch_id, error)
            with suppress(StorageError):  # it may be what failed
                self.discard_slices(plan.batch_id)
            raise

    def _read_slice(self, plan: BatchPlan, name: str, on_read: OnRead, lease: Lease) -> SliceIndex:
        expected = {collection.name: sum(collection.expected.values()) for collection in plan.collections}
        progress = self._reading.setdefault(plan.batch_id, ReadingProgress(self.requests, plan.batch_id, expected))
        counted = 0

        def read(documents: int) -> None:
            nonlocal counted
            counted += documents
            lease.check()
            progress(name, documents)
            on_read(documents)

        slices = self.slices_of(plan.batch_id)
        index = read_slice(self.client, self.settings, slices, plan, self.catalog.entry(name), read)
        progress(name, index.documents - counted)  # of a finished slice that was taken up
        return index

    def package(self, plan: BatchPlan, output: Path | None = None, passphrase: str | None = None) -> Iterator[Outcome]:
        """Write, verify and publish each request's package; record and yield how each ended.

        With ``output``, the package goes to that file, its manifest beside it, and never expires. A request that
        fails does not fail its neighbours. One that is not running any more is left alone. Where the server no longer
        has the plan's moment, the batch starts over once, at a new one.
        """
        with self._at_work(plan.batch_id):
            yield from self._package_all(plan, output, passphrase)

    def _package_all(self, plan: BatchPlan, output: Path | None, passphrase: str | None) -> Iterator[Outcome]:
        running = [request for request in self.requests.of_batch(plan.batch_id) if request.status == "running"]
        if running and plan.restarts == 0 and self._has_aged_out(plan):
            try:
                plan = self._start_over(plan, running)
            except ExportPipelineError as error:
                self.fail_batch(plan.batch_id, error)
                yield from (Outcome(request.id, None, error) for request in running)
                return
        people = plan.people
        wanted = [
            request
            for request in self.requests.of_batch(plan.batch_id)
            if request.status == "running" and request.id in people
        ]
        with BatchSlices(self.slices_of(plan.batch_id), plan.batch_id) as slices:
            for group in groups(wanted, plan.expected_of):
                yield from self._package_together(slices, plan, group, output, passphrase)

    def _has_aged_out(self, plan: BatchPlan) -> bool:
        slices = self.slices_of(plan.batch_id)
        indexes = [load_index(slices, plan.batch_id, collection.name) for collection in plan.collections]
        return any(index and index.failure and index.failure.code == SnapshotTooOldError.code for index in indexes)

    def _start_over(self, plan: BatchPlan, running: Sequence[Request]) -> BatchPlan:
        log.warning("batch %s: the server no longer has the chosen moment; starting over at a new one", plan.batch_id)
        plan = self._make_plan(plan.batch_id, running, restarts=plan.restarts + 1)
        for collection in plan.collections:
            self.read_slice(plan, collection.name)
        return plan

    def download(self, request: Request, output: Path | None = None) -> list[Path]:
        """Copy a completed package out of the storage; see ``packages.publish``."""
        return copy_package(self.storage, request, output)

    def run_here(
        self,
        request: Request,
        output: Path | None = None,
        on_read: OnRead = lambda _: None,
        passphrase: str | None = None,
    ) -> Manifest:
        """Take a request that was submitted with ``run_here`` through all steps; return its manifest.

        Raises what made it fail, after recording it.
        """
        batch_id = str(request.batch_id)
        with self._at_work(batch_id):
            return self._run_here(request, batch_id, output, on_read, passphrase)

    def _run_here(
        self, request: Request, batch_id: str, output: Path | None, on_read: OnRead, passphrase: str | None
    ) -> Manifest:
        try:
            plan = self.plan(batch_id)
            for entry in self.catalog.entries:
                self.read_slice(plan, entry.name, on_read)
            for outcome in self.package(plan, output, passphrase):
                if outcome.manifest is not None:
                    return outcome.manifest
                if outcome.error is not None:
                    raise outcome.error
            raise StaleRequestError(f"request {request.id} was cancelled or taken over while it ran")
        except ExportPipelineError as error:
            self.fail_batch(batch_id, error)
            raise
        except BaseException:
            self.fail_batch(batch_id, InterruptedExportError("the export was interrupted"))
            raise
        finally:
            self.discard_slices(batch_id)
