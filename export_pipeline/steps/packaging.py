"""Making the packages of a batch's requests from its slices, group by group, and recording how each request ended."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from export_pipeline.errors import ExportPipelineError, StaleRequestError
from export_pipeline.packages.assemble import assemble
from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.publish import local_target, published, result_uri, storage_target
from export_pipeline.packages.together import Package, encode_ahead, publish_all
from export_pipeline.requests.batched import BatchedWork, Published
from export_pipeline.requests.models import Request
from export_pipeline.requests.progress import Progress
from export_pipeline.slices.batch_slices import BatchSlices
from export_pipeline.slices.plan import BatchPlan
from export_pipeline.steps.endings import Endings
from export_pipeline.steps.passphrases import kept


class InternalError(ExportPipelineError):
    """Something that should not happen. Only its kind is told: an unforeseen message may quote data."""

    code = "internal"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request of a batch ended: with a manifest, or with an error."""

    request_id: str
    manifest: Manifest | None
    error: ExportPipelineError | None


class Packaging(Endings):
    """The packages of requests that share slices."""

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
            passphrase = passphrase or kept(request.id, self.requests.secrets, self.settings)
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
