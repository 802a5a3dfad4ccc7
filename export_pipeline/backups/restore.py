"""Restoring a backup: first everything is checked and nothing written, then it is loaded, compared and put in force.

A restore that was interrupted is called again with the same wish, and continues with the parts that are missing.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import cached_property
from threading import Event, Lock
from typing import Any

from pymongo import MongoClient

from export_pipeline.backups.erase import storages_of_backups
from export_pipeline.backups.ledger import Ledger, LedgerKey
from export_pipeline.backups.manifest import BackedUpCollection, BackupManifest, PartFile
from export_pipeline.backups.restore_ledger import Erased
from export_pipeline.backups.restore_load import Loaded, Loading, OnDocuments, compare, load_part
from export_pipeline.backups.restore_plan import Target, Wish, parts_of, plan_sha256, plan_targets
from export_pipeline.backups.restore_source import (
    BackupFolder,
    BackupRefusedError,
    BackupSource,
)
from export_pipeline.backups.restore_target import RestoreRecord, RestoreTarget
from export_pipeline.errors import ExportPipelineError, IncompleteError
from export_pipeline.installation import Installation
from export_pipeline.mongo.connection import Document
from export_pipeline.packages.layers import Keys
from export_pipeline.requests.batches import made_at
from export_pipeline.slices.stored import Stored


class StoppedError(ExportPipelineError):
    """Another part of the same restore has failed."""

    code = "stopped"


class DocumentsLostError(ExportPipelineError):
    """Documents that were loaded are not there any more: the server was restarted before they were on its disk."""

    code = "documents_lost"


class RestoredCollection(Stored):
    """What became of one collection. Both counts and hashes were compared, unless it is a view."""

    source: str
    database: str
    collection: str
    kind: str
    documents: int
    left_out: int
    """Documents of users who were erased since the backup."""
    detached: int
    """Documents of others too, from which such users were taken out."""
    exact: bool
    """Whether every bit is as it was; false where the backup's format, Extended JSON, does not hold all of them."""


class RestoreReport(Stored):
    """What was restored, or, of a dry run, would be."""

    backup_id: str
    app_id: str
    new_app_id: str | None
    dry_run: bool
    continued: bool
    """Whether an interrupted restore was continued."""
    collections: tuple[RestoredCollection, ...]
    without: tuple[str, ...]
    documents: int
    left_out: int
    detached: int
    erased_ids: int
    """How many ids of erased users the ledger named for this backup."""
    seconds: float


class Restore:
    """One restore of a backup into a MongoDB."""

    def __init__(
        self,
        installation: Installation,
        folder: BackupFolder,
        client: MongoClient[Document],
        wish: Wish,
        keys: Keys,
    ) -> None:
        """Read the manifest and make the plan. Raises BadInputError, and IncompleteError for a damaged manifest."""
        self._installation = installation
        self.wish = wish
        self._source = BackupSource(folder, keys)
        self.manifest = self._source.manifest
        self._target = RestoreTarget(client)
        settings = installation.settings
        self._targets = plan_targets(self.manifest, installation.catalog, settings.mongo_database, wish)
        storages = [*storages_of_backups(installation, self.manifest.app_id), folder.storage]
        self._ledger = Ledger(installation.database, storages)
        self._begun_at = time.monotonic()
        self._stopped = Event()
        self._process: Any = None
        self._continued = False
        self._report_documents: OnDocuments = lambda _: None

    @property
    def documents(self) -> int:
        """How many documents are to be loaded."""
        return sum(self.documents_of.values())

    @property
    def documents_of(self) -> dict[str, int]:
        """The same, by collection."""
        return {target.source.name: target.source.documents_written for target in self._targets}

    @property
    def databases(self) -> list[str]:
        """The databases that are written; the first is the one that how far the restore has come is recorded in."""
        return list(dict.fromkeys(target.name[0] for target in self._targets))

    @property
    def server(self) -> str:
        """What tells the MongoDB that is written from others: the addresses of its members."""
        return self._target.server

    def check(self) -> RestoreReport:
        """Check everything, and write nothing; return what would be restored. Raises what ``run`` would before it."""
        self._check()
        return self._report({}, dry_run=True, continued=False)

    def run(self, on_documents: OnDocuments = lambda _: None) -> RestoreReport:
        """Restore. What is recorded in the target stays until ``forget`` is called: until then, this can run again.

        Raises before anything is written: IncompleteError that names a part, WrongKeyError, BackupRefusedError,
        TargetRefusedError. Later: RestoreFailedError, MongoUnreachableError, StorageError, after which it can be
        called again to continue; IncompleteError where what was loaded is not what the backup holds.
        """
        self._report_documents = on_documents
        self._process = self._target.process
        self._continued = continued = self._check()
        self._record.begin(self.plan)
        done = self._record.done() if continued else {}
        with ThreadPoolExecutor(self.wish.threads, "restore") as pool:
            waiting = [target for target in self._loaded if _key(target) not in done]
            self._all(pool.submit(self._prepare, target, done, continued) for target in waiting)
            loaded = self._load(pool, waiting, done, continued=continued)
            self._all(pool.submit(self._target.finish, target) for target in self._loaded)
        for view in self._views:
            self._target.prepare(view)
            self._target.finish(view)
        whole = {_key(target): Loaded.of(done[_key(target)]) for target in self._loaded if _key(target) in done}
        whole |= {_key(target): _together(loaded, target) for target in waiting}
        return self._report(whole, dry_run=False, continued=continued)

    def forget(self) -> None:
        """Remove what this restore recorded in the target, once it is known elsewhere that it is done."""
        self._record.remove(self.plan)

    def _check(self) -> bool:
        """Check everything; tell whether this restore has begun before."""
        continued = self._record.begun(self.plan)
        if not continued:
            self._target.check(self._targets, self.manifest.server_version)
        self._source.check()
        return continued

    @cached_property
    def plan(self) -> str:
        """The SHA-256 of all that is to be done."""
        erased = {f"{target.source.database}.{target.source.name}": self._hashes(target) for target in self._loaded}
        return plan_sha256(self._source.manifest_sha256, self._targets, erased)

    @cached_property
    def _record(self) -> RestoreRecord:
        return RestoreRecord(self._target, self.databases[0])

    @cached_property
    def _loaded(self) -> list[Target]:
        return [target for target in self._targets if target.structure.kind != "view"]

    @cached_property
    def _views(self) -> list[Target]:
        return [target for target in self._targets if target.structure.kind == "view"]

    def _prepare(self, target: Target, done: Mapping[str, Any], continued: bool) -> None:
        is_whole = all(_part_key(target, part) in done for part in target.source.parts)
        if target.is_one_piece and continued and not is_whole:
            self._target.start_over(target)
        else:
            self._target.prepare(target)

    def _load(
        self,
        pool: ThreadPoolExecutor,
        targets: Sequence[Target],
        done: Mapping[str, Any],
        *,
        continued: bool,
    ) -> dict[str, Loaded]:
        """Load the parts that are missing, and compare each collection when it has all; return what became of parts.

        Comparing has threads of its own: while one waits for the server's disk, another can work.
        """
        loaded = {key: Loaded.of(figures) for key, figures in done.items()}
        missing = {
            _key(target): {_part_key(target, part) for part in target.source.parts} - done.keys() for target in targets
        }
        lock = Lock()

        def load(target: Target, part: PartFile) -> None:
            figures = load_part(
                self._source, self._loading(target), part, again=continued, on_documents=self._on_documents
            )
            key = _part_key(target, part)
            # Durable before it is compared: what a crash of the server takes afterwards, no comparison would find.
            self._record.add(key, figures.recorded)
            with lock:
                loaded[key] = figures
                missing[_key(target)].discard(key)
                is_whole = not missing[_key(target)]
            if is_whole:
                comparing.append(comparers.submit(self._guarded, self._compare, target, loaded))

        def load_all(target: Target) -> None:
            for part in target.source.parts:
                load(target, part)

        with ThreadPoolExecutor(self.wish.threads, "compare") as comparers:
            comparing = [
                comparers.submit(self._guarded, self._compare, target, loaded)
                for target in targets
                if not missing[_key(target)]
            ]
            loading = [
                pool.submit(self._guarded, load_all, target)
                for target in targets
                if target.is_one_piece and missing[_key(target)]
            ]
            loading += [
                pool.submit(self._guarded, load, target, part)
                for target, part in parts_of(targets)
                if not target.is_one_piece and _part_key(target, part) in missing[_key(target)]
            ]
            self._all(loading)
            self._all(comparing)
        return loaded

    def _compare(self, target: Target, loaded: Mapping[str, Loaded]) -> None:
        keys = [_part_key(target, part) for part in target.source.parts]
        try:
            compare(self._loading(target), [loaded[key] for key in keys], self._on_documents)
        except IncompleteError as error:
            self._record.withdraw(keys)
            if self._continued or self._target.process != self._process:
                raise DocumentsLostError(
                    f"{error}; its server was restarted or replaced meanwhile. Restore again: they are loaded anew"
                ) from None
            raise
        self._target.build_indexes(target)
        self._record.add(_key(target), _together(loaded, target).recorded)

    def _loading(self, target: Target) -> Loading:
        return Loading(target, self._erased(target), self._target.collection(target.name))

    def _erased(self, target: Target) -> list[Erased]:
        """Return whom of the erased a collection may name. Raises BackupRefusedError where only a hook could tell."""
        found = []
        for entry, owner in target.claims:
            for app_id in dict.fromkeys([owner, self.wish.app_id or owner]):
                hashes = self._erased_since(app_id, self._moment(target.source))
                if not hashes or not target.source.documents_written:
                    continue
                if entry.user_key is None:
                    raise BackupRefusedError(
                        f"{target.source.name}: users were erased since the backup, and only a hook knows which of "
                        "these documents are theirs; leave the collection out with --without"
                    )
                key = LedgerKey.of(self._installation.settings, app_id)
                hash_of = key.of_device if entry.key_holds == "device_id" else key.of_uid
                found.append(Erased(tuple(entry.user_key.split(".")), hash_of, hashes))
        return found

    def _hashes(self, target: Target) -> list[str]:
        return sorted({uid_hash for erased in self._erased(target) for uid_hash in erased.hashes})

    def _erased_since(self, app_id: str, moment: datetime) -> frozenset[str]:
        known = self._known_erased.get((app_id, moment))
        if known is None:
            known = self._ledger.erased_since(app_id, moment, self._installation.settings)
            self._known_erased[app_id, moment] = known
        return known

    @cached_property
    def _known_erased(self) -> dict[tuple[str, datetime], frozenset[str]]:
        return {}

    def _moment(self, collection: BackedUpCollection) -> datetime:
        """Return the earliest moment that a collection's documents are of."""
        moment = _moment_of(self.manifest)
        if collection.method != "since_time":
            return moment
        # What an earlier backup had stands for what has been deleted since too.
        earlier = [made_at(part.backup_id) for part in collection.parts if part.backup_id is not None]
        return min([moment, *(made for made in earlier if made is not None)])

    def _on_documents(self, documents: int) -> None:
        if self._stopped.is_set():
            raise StoppedError("another part of the restore has failed")
        self._report_documents(documents)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        if not self._stopped.is_set():
            work(*arguments)

    def _all(self, futures: Iterable[Future[None]]) -> None:
        """Wait for all. The first that fails stops the others, and is raised."""
        failure: BaseException | None = None
        for future in as_completed(list(futures)):
            error = future.exception()
            if error is not None and (failure is None or isinstance(failure, StoppedError)):
                failure = error
                self._stopped.set()
        if failure is not None:
            raise failure

    def _report(self, loaded: Mapping[str, Loaded], *, dry_run: bool, continued: bool) -> RestoreReport:
        nothing = Loaded(0, 0, 0, 0, True, "")
        collections = []
        for target in self._targets:
            found = loaded.get(_key(target), nothing)
            collections.append(
                RestoredCollection(
                    source=target.source.name,
                    database=target.name[0],
                    collection=target.name[1],
                    kind=target.structure.kind,
                    documents=target.source.documents_written if dry_run else found.documents,
                    left_out=found.left_out,
                    detached=found.detached,
                    exact=found.exact,
                )
            )
        return RestoreReport(
            backup_id=self.manifest.backup_id,
            app_id=self.manifest.app_id,
            new_app_id=self.wish.app_id,
            dry_run=dry_run,
            continued=continued,
            collections=tuple(collections),
            without=tuple(self.wish.without),
            documents=sum(each.documents for each in collections),
            left_out=sum(each.left_out for each in collections),
            detached=sum(each.detached for each in collections),
            erased_ids=len({uid_hash for hashes in self._known_erased.values() for uid_hash in hashes}),
            seconds=round(time.monotonic() - self._begun_at, 3),
        )


def _moment_of(manifest: BackupManifest) -> datetime:
    cluster_time = manifest.moment.cluster_time
    if cluster_time is None:
        return manifest.moment.read_at
    return datetime.fromtimestamp(int(cluster_time.partition(".")[0]), UTC)


def _key(target: Target) -> str:
    return f"compared {target.source.database}.{target.source.name}"


def _part_key(target: Target, part: PartFile) -> str:
    return f"part {target.source.database}.{target.source.name}/{part.backup_id or ''}/{part.name}"


def _together(loaded: Mapping[str, Loaded], target: Target) -> Loaded:
    parts = [loaded[_part_key(target, part)] for part in target.source.parts]
    return Loaded(
        sum(part.documents for part in parts),
        sum(part.bytes for part in parts),
        sum(part.left_out for part in parts),
        sum(part.detached for part in parts),
        all(part.exact for part in parts),
        "",
    )
