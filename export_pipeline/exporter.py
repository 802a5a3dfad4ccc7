"""The steps from a request to its package, put together once for all who take them: Dagster and the command line.

Each step can run twice: a plan and finished slices are taken up, a published package is not published again.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from export_pipeline.catalog.drift.check import DEFAULT_BUDGET, Budget, DriftReport, check_drift
from export_pipeline.catalog.narrowing import chosen_entries
from export_pipeline.encryption.age import new_identity, parse_identities, parse_recipient
from export_pipeline.errors import BadInputError, ExportPipelineError, StaleRequestError, StorageError
from export_pipeline.formats.registry import checked_options, find_format, write_options
from export_pipeline.installation import Installation
from export_pipeline.mongo.connection import SnapshotTooOldError
from export_pipeline.packages import removal
from export_pipeline.packages.assemble import assemble
from export_pipeline.packages.layers import is_encrypted
from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.publish import (
    copy_package,
    local_target,
    package_folder,
    published,
    result_uri,
    storage_target,
)
from export_pipeline.packages.together import Package, encode_ahead, groups, publish_all
from export_pipeline.requests.batched import BatchedWork, Published
from export_pipeline.requests.leases import Lease
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.requests.progress import Progress, ReadingProgress
from export_pipeline.requests.secrets import seal, unseal
from export_pipeline.settings import Settings
from export_pipeline.slices.batch_slices import BatchSlices
from export_pipeline.slices.estimate import Estimate, estimate
from export_pipeline.slices.identity import checked_person
from export_pipeline.slices.plan import BatchPlan, Wanted, load_plan, make_plan, plan_key, store_plan
from export_pipeline.slices.read import OnRead, read_slice
from export_pipeline.slices.slice_file import SliceIndex, load_index
from export_pipeline.storage import Storage
from export_pipeline.storage.sealed import SealedStorage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

PLAN_IS_FRESH = timedelta(minutes=4)
"""For how long a stored plan may still be read at: the server keeps 5 minutes of history by default."""

SEEN_FIELDS = "catalog/seen-fields.json"
"""Which fields the drift check has seen, by entry: names alone, no values."""


class InterruptedExportError(ExportPipelineError):
    """The process was told to stop."""

    code = "interrupted"


class InternalError(ExportPipelineError):
    """Something that should not happen. Only its kind is told: an unforeseen message may quote data."""

    code = "internal"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request of a batch ended: with a manifest, or with an error."""

    request_id: str
    manifest: Manifest | None
    error: ExportPipelineError | None


class Exporter(Installation):
    """The steps of an installation's exports."""

    def __init__(self, settings: Settings, s3_client: "S3Client | None" = None) -> None:
        super().__init__(settings, s3_client)
        self._leases: dict[str, Lease] = {}
        self._reading: dict[str, ReadingProgress] = {}

    def submit(self, new: NewRequest, *, run_here: bool = False, passphrase: str | None = None) -> Request:
        """Insert a checked request. Raises BadInputError for what the formats or the catalogue do not allow.

        A passphrase waits, sealed, until the request has completed. See ``RequestStore.submit`` for when a request
        that exists is returned instead.
        """
        self.check(new)
        sealed = None if passphrase is None else seal(passphrase, self._secret_key())
        return self.requests.submit(new, run_here=run_here, sealed_passphrase=sealed)

    def _secret_key(self) -> str:
        if self.settings.secret_key is None:
            raise BadInputError(
                "a passphrase waits in the requests table until its export is made, sealed with "
                "EXPORT_PIPELINE_SECRET_KEY: set that, or encrypt to a recipient's public key"
            )
        return self.settings.secret_key.get_secret_value()

    def check(self, new: NewRequest) -> None:
        """Raise BadInputError for what the formats or the catalogue do not allow."""
        options = checked_options(find_format(new.format), new.options)
        for recipient in options.recipients:
            parse_recipient(recipient)
        chosen_entries(new.narrowing, self.catalog)
        if new.person is not None:
            if self.catalog.identity is None:
                raise BadInputError("person: the catalogue has no 'identity' to search; name the uids")
            checked_person(new.person, self.catalog.identity)

    def estimate(self, new: NewRequest) -> Estimate:
        """Return what an export would hold, without making one; nothing is stored. Raises what would make it fail."""
        self.check(new)
        wanted = Wanted("estimate", new.uids, new.person, new.max_users)
        plan, unplanned = make_plan(
            self.client, self.settings, self.catalog, "estimate", new.app_id, new.narrowing, [wanted]
        )
        for error in unplanned.values():
            raise error
        return estimate(self.client, self.settings, self.catalog, plan)

    def check_catalog(self, budget: Budget = DEFAULT_BUDGET, apps: Sequence[str] | None = None) -> DriftReport:
        """Compare the catalogue with the database; the fields seen are remembered for the next check."""
        seen: dict[str, list[str]] = {}
        if self.storage.exists(SEEN_FIELDS):
            with self.storage.open(SEEN_FIELDS) as file:
                seen = json.loads(file.read())
        report, seen_now = check_drift(self.client, self.settings, self.catalog, seen, budget, apps)
        with self.storage.create(SEEN_FIELDS) as pending:
            pending.write(json.dumps(seen_now).encode())
            pending.commit()
        return report

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
        self.storage.delete(f"slices/{batch_id}")
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

    def _package_together(
        self,
        slices: BatchSlices,
        plan: BatchPlan,
        group: Sequence[Request],
        output: Path | None,
        passphrase: str | None,
    ) -> Iterator[Outcome]:
        """Make the packages of a group one by one, publish them together, and record what is published at once."""
        batched = BatchedWork.beside(self.requests)
        outcomes: dict[str, Outcome] = {}
        made: list[Package] = []
        done: list[Package] = []
        with suppress(Exception):  # it only saves time; what goes wrong will again, for the request that it concerns
            encode_ahead(slices, plan, group)
        with ExitStack() as stack:
            for request in group:
                with self._failing_alone(request, outcomes):
                    made.append(stack.enter_context(self._made(slices, plan, request, output, passphrase)))
            running = batched.still_running(plan.batch_id, [package.request.id for package in made])
            current = [package for package in made if package.request.id in running]
            for package, error in zip(current, publish_all(current), strict=True):
                with self._failing_alone(package.request, outcomes):
                    if error is not None:
                        raise error
                    done.append(package)
            completed = batched.complete(plan.batch_id, [self._published(package, output) for package in done])
        for package in made:
            if package.request.id not in running:
                self._moved_on(package.request)
        for package in done:
            if package.request.id in completed:
                outcomes[package.request.id] = Outcome(package.request.id, package.manifest, None)
            else:
                self._moved_on(package.request)
        yield from (outcomes[request.id] for request in group if request.id in outcomes)

    @contextmanager
    def _failing_alone(self, request: Request, outcomes: dict[str, Outcome]) -> Iterator[None]:
        """Record what makes a request fail, and let its neighbours go on."""
        failure: ExportPipelineError
        try:
            yield
            return
        except StaleRequestError:
            self._moved_on(request)
            return
        except ExportPipelineError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # one request's surprise must not fail its neighbours
            failure = InternalError(f"packaging ended with an unexpected {type(error).__name__}; please report it")
        if self._fail(request.id, str(request.batch_id), failure):
            self._discard_folder(request)
            outcomes[request.id] = Outcome(request.id, None, failure)
        else:
            self._moved_on(request)

    def _moved_on(self, request: Request) -> None:
        log.warning("request %s was moved on while it was packaged; its package is dropped", request.id)
        self._drop_if_over(request)

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

    def discard_slices(self, batch_id: str) -> None:
        """Remove the batch's slices and plan; they hold personal data and have served."""
        self._reading.pop(batch_id, None)
        self.storage.delete(f"slices/{batch_id}")
        self.requests.secrets.forget([batch_id])

    def fail_batch(self, batch_id: str, error: ExportPipelineError) -> None:
        """Fail the batch's running requests for one reason; passing ones are tried again by themselves."""
        self.requests.fail_batch(batch_id, code=error.code, message=str(error))

    def give_up(self, batch_id: str, seen: datetime | None) -> list[Request]:
        """Fail the requests of a batch whose worker is dead, and remove what it left: it is personal data.

        Nothing happens where the worker has shown a sign of life since its lease was ``seen``. Returns the requests
        that were given up, as they are now.
        """
        message = "the process that made this export ended without finishing it"
        ids = self.requests.give_up(batch_id, seen, message=message)
        given_up = [self.requests.get(request_id) for request_id in ids]
        for request in given_up:
            self._discard_folder(request)
        if given_up:
            self.discard_slices(batch_id)
        return given_up

    def cancel(self, request_id: str, actor: str) -> Request:
        """Cancel a pending or running request, at any moment, and remove what was written for it.

        Its worker stops by itself. Raises StaleRequestError if the request has finished.
        """
        before = self.requests.cancel(request_id, actor)
        self.storage.delete(package_folder(before))
        if before.batch_id is not None and before.batch_id not in self.requests.live_batches():
            self.discard_slices(before.batch_id)
        return self.requests.get(request_id)

    def expire(self, request: Request) -> bool:
        """Remove a completed request's package; see ``packages.removal``."""
        return removal.expire(self.requests, self.storage, request)

    def sweep(self) -> removal.Swept:
        """Remove what crashed or cancelled work left; see ``packages.removal``."""
        return removal.sweep(self.requests, self.storage)

    def forget(self, app_id: str, uid: str | None, actor: str) -> int:
        """Remove at once what was exported of an app, or of one of its users; see ``packages.removal``."""
        return removal.forget(self.requests, self.storage, app_id, uid, actor)

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

    @contextmanager
    def _made(
        self, slices: BatchSlices, plan: BatchPlan, request: Request, output: Path | None, passphrase: str | None
    ) -> Iterator[Package]:
        """Make a request's package, or take up the one that a former attempt published."""
        target = local_target(output) if output else storage_target(self.storage, request)
        uri = result_uri(target, request)
        manifest = None if output else published(self.storage, request)
        if manifest is not None:
            yield Package(request, uri, manifest, lambda: None)
            return
        expected = {collection.name: collection.expected.get(request.id, 0) for collection in plan.collections}
        progress = Progress(self.requests, request.id, plan.batch_id, expected)
        if request.options.get("passphrase"):
            passphrase = passphrase or self._kept_passphrase(request)
        with assemble(slices, self.catalog, plan, request, target, passphrase, progress) as assembled:
            yield Package(request, uri, assembled.manifest, assembled.publish)

    def _published(self, package: Package, output: Path | None) -> Published:
        return Published(
            package.request.id,
            package.manifest.totals.documents_written,
            package.uri,
            package.manifest.file.bytes,
            package.manifest.file.sha256,
            datetime.now(UTC) + self._kept_for(package.request) if output is None else None,
        )

    def _kept_for(self, request: Request) -> timedelta:
        return self.settings.retention if request.keep_seconds is None else timedelta(seconds=request.keep_seconds)

    def _kept_passphrase(self, request: Request) -> str | None:
        sealed = self.requests.secrets.find(request.id)
        return None if sealed is None else unseal(sealed, self._secret_key())

    def _fail(self, request_id: str, batch_id: str, error: ExportPipelineError) -> bool:
        try:
            self.requests.fail(request_id, batch_id, code=error.code, message=str(error))
        except StaleRequestError:
            log.info("request %s was moved on before its failure was recorded", request_id)
            return False
        return True

    def _discard_folder(self, request: Request) -> None:
        """Remove what a failed attempt left in the request's folder: without its manifest it is no package.

        A whole one stays for a retry to take up.
        """
        try:
            now = self.requests.get(request.id)
            if not now.is_live or published(self.storage, request) is None:
                self.storage.delete(package_folder(request))
        except (StorageError, ValueError) as error:
            log.warning("request %s failed, and its folder is still there: %s", request.id, error)

    def _drop_if_over(self, request: Request) -> None:
        """Remove what was published in the very moment in which the request was cancelled or given up."""
        if self.requests.get(request.id).status in ("cancelled", "failed"):
            self._discard_folder(request)
