"""What ends requests, and what has to go then: failures, workers that died, cancelling, expiry, being forgotten."""

import logging
from datetime import datetime

from export_pipeline.errors import ExportPipelineError, StaleRequestError, StorageError
from export_pipeline.installation import Installation
from export_pipeline.packages import removal
from export_pipeline.packages.publish import package_folder, published
from export_pipeline.requests.models import USER_EXPORT, Request

log = logging.getLogger(__name__)


class Endings(Installation):
    """The ends of requests other than their packages."""

    def fail_batch(self, batch_id: str, error: ExportPipelineError) -> None:
        """Fail the batch's running requests for one reason; passing ones are tried again by themselves."""
        self.requests.fail_batch(batch_id, code=error.code, message=str(error))

    def _fail(self, request_id: str, batch_id: str, error: ExportPipelineError) -> bool:
        try:
            self.requests.fail(request_id, batch_id, code=error.code, message=str(error))
        except StaleRequestError:
            log.info("request %s was moved on before its failure was recorded", request_id)
            return False
        return True

    def give_up(self, batch_id: str, seen: datetime | None) -> list[Request]:
        """Fail the requests of a batch whose worker is dead, and remove what it left: it is personal data.

        Nothing happens where the worker has shown a sign of life since its lease was ``seen``. Returns the requests
        that were given up, as they are now.
        """
        message = "the process that worked on this request ended without finishing it"
        ids = self.requests.give_up(batch_id, seen, message=message)
        given_up = [self.requests.get(request_id) for request_id in ids]
        for request in given_up:
            if request.kind == USER_EXPORT:  # a backup's parts are taken up by the next attempt
                self._discard_folder(request)
        if given_up:
            self.discard_slices(batch_id)
        return given_up

    def cancel(self, request_id: str, actor: str) -> Request:
        """Cancel a pending or running request, at any moment, and remove what was written for it.

        Its worker stops by itself. Raises StaleRequestError if the request has finished.
        """
        before = self.requests.cancel(request_id, actor)
        if before.kind == USER_EXPORT:  # what a backup has written is swept
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

    def discard_slices(self, batch_id: str) -> None:
        """Remove the batch's slices and plan; they hold personal data and have served."""
        removal.discard_slices(self.requests, self.storage, batch_id)

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

    def _moved_on(self, request: Request) -> None:
        log.warning("request %s was moved on while it was packaged; its package is dropped", request.id)
        self._drop_if_over(request)

    def _drop_if_over(self, request: Request) -> None:
        """Remove what was published in the very moment in which the request was cancelled or given up."""
        if self.requests.get(request.id).status in ("cancelled", "failed"):
            self._discard_folder(request)
