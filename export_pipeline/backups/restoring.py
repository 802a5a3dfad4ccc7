"""Restores as rows: who asks for one, and the work on it, put together once for Dagster and the command line."""

import logging
import threading
from datetime import datetime, timedelta

from export_pipeline.backups.restore import Restore, RestoreReport
from export_pipeline.backups.restore_load import OnDocuments
from export_pipeline.backups.restore_plan import Wish
from export_pipeline.backups.restore_source import find_backup
from export_pipeline.backups.restore_target import RestoreRecord, RestoreTarget
from export_pipeline.backups.working import at_work
from export_pipeline.errors import ExportPipelineError
from export_pipeline.installation import Installation
from export_pipeline.packages.layers import NO_KEYS
from export_pipeline.requests.leases import Lease
from export_pipeline.requests.models import Request
from export_pipeline.requests.progress import Progress
from export_pipeline.requests.restores import NewRestore, RestoreRequests

log = logging.getLogger(__name__)

TIDIED_FOR = timedelta(days=2)
"""How long a completed restore's target is looked at: the hourly job may have rested for a weekend."""


class Restores:
    """The restores of an installation's backups, or of others', that its requests table knows of."""

    def __init__(self, installation: Installation) -> None:
        self._at = installation
        self.requests = RestoreRequests.beside(installation.requests)

    def open(self, named: str, wish: Wish) -> Restore:
        """Return the restore of a plain backup into the installation's MongoDB. Raises what ``Restore`` does."""
        return Restore(self._at, find_backup(self._at, named), self._at.client, wish, NO_KEYS)

    def open_of(self, request: Request) -> Restore:
        """Return the restore that a row asks for."""
        known = request.options
        return self.open(
            known["backup"], Wish(known["to_database"], known["app_id"], known["without"], known["threads"])
        )

    def submit(
        self, restoring: Restore, named: str, requested_by: str, *, attended: bool = False, run_here: bool = False
    ) -> Request:
        """Insert the row of a restore; with ``run_here``, for a caller that does the work itself.

        ``attended`` says that nobody else can do it. Raises RestoreUnderWayError while there is one into the same
        database.
        """
        manifest, wish = restoring.manifest, restoring.wish
        new = NewRestore(
            backup_id=manifest.backup_id,
            app_id=manifest.app_id,
            named=named,
            databases=wish.databases,
            new_app_id=wish.app_id,
            without=wish.without,
            threads=wish.threads,
            targets=restoring.databases,
            server=restoring.server,
            attended=attended,
            requested_by=requested_by,
        )
        return self.requests.submit(new, run_here=run_here)

    def run(self, request: Request, restoring: Restore, on_documents: OnDocuments = lambda _: None) -> RestoreReport:
        """Take a row that was submitted with ``run_here`` to its end.

        Raises what made it fail, after recording it.
        """
        with at_work(self._at.requests, request, "restore") as lease:
            return self.work(request, restoring, lease, on_documents)

    def work(
        self, request: Request, restoring: Restore, lease: Lease, on_documents: OnDocuments = lambda _: None
    ) -> RestoreReport:
        """Restore for a running row, and record it as completed. Can run again where it did not get to its end."""
        requests, batch_id = self._at.requests, str(request.batch_id)
        requests.set_totals(batch_id, {request.id: restoring.documents})
        noted = Progress(requests, request.id, batch_id, restoring.documents_of)
        loaded, lock = 0, threading.Lock()

        def note(documents: int) -> None:
            nonlocal loaded
            lease.check()
            with lock:  # parts are loaded by several threads
                loaded += documents
                noted(loaded, 0)
            on_documents(documents)

        report = restoring.run(note)
        requests.complete(
            request.id,
            batch_id,
            documents=report.documents,
            result_uri=None,
            result_bytes=0,
            result_sha256=restoring.plan,
            expires_at=None,
        )
        restoring.forget()
        return report

    def tidy(self, now: datetime) -> None:
        """Remove what completed restores recorded in their targets and did not live to remove.

        Of those that only their callers could make, the target is not known here. Goes on where one cannot be
        reached, with the reason in the log.
        """
        for request in self.requests.completed_since(now - TIDIED_FOR):
            if not request.options["attended"]:
                try:
                    self.tidy_one(request)
                except ExportPipelineError as error:
                    log.error("what restore %s recorded in its target could not be removed: %s", request.id, error)

    def tidy_one(self, request: Request) -> None:
        """Do so for one completed restore."""
        record = RestoreRecord(RestoreTarget(self._at.client), request.options["targets"][0])
        record.remove(str(request.result_sha256))
