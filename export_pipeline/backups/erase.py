"""Erasing people over the catalogue, in two steps: a dry run that counts, and its confirmation, which deletes.

A confirmed erasure that was interrupted is confirmed again and goes on; each of its steps can run twice. The ledger is
written before anything is deleted: from then on no restore brings these people back.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from export_pipeline.backups.erase_records import Counted, CountedCollection, Erasure, ErasureRecords
from export_pipeline.backups.erase_targets import (
    ErasedPeople,
    Target,
    erasable,
    find_people,
    find_targets,
    with_hooks_called,
)
from export_pipeline.backups.ledger import Ledger, LedgerEntry, LedgerKey
from export_pipeline.backups.removal import storage_of
from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.installation import Installation
from export_pipeline.packages import removal
from export_pipeline.packages.manifest import software_version
from export_pipeline.requests.models import ALL_APPS, check_app_id, check_uids
from export_pipeline.requests.rows import now
from export_pipeline.requests.secrets import seal, unseal
from export_pipeline.slices.stored import Stored
from export_pipeline.storage import Storage

DRY_RUN_LASTS = timedelta(days=1)
"""How old a dry run may be when it is confirmed."""

MAY_GROW = 0.1
MAY_GROW_BY = 100
"""People go on using the app: a collection may have a tenth more documents than the dry run counted, or 100."""


class ErasureRefusedError(BadInputError):
    """What is confirmed is not what a recent dry run counted; nothing was deleted."""

    code = "erasure_refused"


class ErasedCollection(Stored):
    """What became of a collection's documents: ``deleted`` were the people's alone, ``detached`` others' too.

    Both were counted when the erasure was confirmed, ``left`` at its end.
    """

    database: str
    collection: str
    is_view: bool
    deleted: int
    detached: int
    left: int


class Receipt(Stored):
    """What was erased, without a word of whom."""

    erasure_id: str
    app_id: str
    selection_sha256: str
    uids: int
    merged_uids: int
    device_ids: int
    kept_device_ids: int
    """Devices that other people used too: what lies under them stays."""
    collections: tuple[ErasedCollection, ...]
    requests_forgotten: int
    ledger_entries: int
    requested_by: str
    requested_at: datetime
    finished_by: str
    finished_at: datetime
    catalog_sha256: str
    software: str


class Erasures:
    """The erasures of one installation."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self.records = ErasureRecords(installation.database)

    def count(self, app_id: str, uids: Sequence[str], actor: str) -> Erasure:
        """Make a dry run: find the people, count their documents, and record it for a confirmation.

        Raises BadInputError for what cannot be erased, whatever keeps a collection from being counted, and
        UnknownAppError.
        """
        check_app_id(app_id)
        check_uids(uids)
        key = LedgerKey.of(self._installation.settings, app_id)
        people, counted = self._found(app_id, uids)
        return self.records.add(app_id, key.of_selection(app_id, people.person), counted, actor)

    def confirm(self, erasure_id: str, app_id: str, uids: Sequence[str], actor: str) -> Receipt:
        """Erase what the dry run ``erasure_id`` counted for the same people, or go on with it; return the receipt.

        An erasure that is done gives its receipt again. Raises ErasureRefusedError, with nothing deleted, for other
        people, a dry run that is too old, or much more documents than it counted; IncompleteError where documents
        are left, and whatever keeps one from being removed: confirm it again then.
        """
        check_app_id(app_id)
        check_uids(uids)
        key = LedgerKey.of(self._installation.settings, app_id)
        erasure = self.records.get(erasure_id)
        if erasure.app_id != app_id:
            raise ErasureRefusedError(f"erasure {erasure_id} is of another app; make a dry run for this one")
        if erasure.status == "erased":
            return Receipt.model_validate(erasure.receipt)
        if erasure.status == "counted":
            erasure, people = self._begin(erasure, uids, key, actor)
        else:
            erasure, people = self._take_up(erasure, uids, actor)
        return self._erase(erasure, people, key, actor)

    def _begin(self, erasure: Erasure, uids: Sequence[str], key: LedgerKey, actor: str) -> tuple[Erasure, ErasedPeople]:
        if now() - erasure.requested_at > DRY_RUN_LASTS:
            raise ErasureRefusedError(f"the dry run {erasure.id} is older than a day; make a new one")
        people, counted = self._found(erasure.app_id, uids)
        if key.of_selection(erasure.app_id, people.person) != erasure.selection_sha256:
            raise ErasureRefusedError(
                f"the dry run {erasure.id} was of other people, or their uids and devices have changed since; make a "
                "new one"
            )
        check_growth(erasure.counted, counted)
        sealed = seal(people.model_dump_json(), self._secret_key())
        return self.records.begin(erasure.id, counted, sealed, actor), people

    def _take_up(self, erasure: Erasure, uids: Sequence[str], actor: str) -> tuple[Erasure, ErasedPeople]:
        people = ErasedPeople.model_validate_json(unseal(str(erasure.sealed_people), self._secret_key()))
        if not set(uids) <= set(people.person.uids):
            raise ErasureRefusedError(f"erasure {erasure.id}, which was interrupted, is of other people")
        return self.records.take_up(erasure.id, actor), people

    def _erase(self, erasure: Erasure, people: ErasedPeople, key: LedgerKey, actor: str) -> Receipt:
        installation, app_id = self._installation, erasure.app_id
        entry = LedgerEntry(
            erasure_id=erasure.id,
            app_id=app_id,
            key_check=key.check,
            hashes=tuple(key.of_people(people.erasable)),
        )
        ledger = Ledger(installation.database, storages_of_backups(installation, app_id))
        ledger.write(entry)
        targets = find_targets(installation, app_id)
        documents = [erasable(installation, app_id, target, people) for target in targets]
        for target, theirs in zip(targets, documents, strict=True):
            if not target.is_view:
                theirs.erase()
        left = {target.name: theirs.left() for target, theirs in zip(targets, documents, strict=True)}
        for (_, collection), documents_left in left.items():
            if documents_left:
                raise IncompleteError(
                    f"{collection}: {documents_left} documents of these people are there still; confirm the same "
                    "erasure again"
                )
        forgotten = sum(
            removal.forget(installation.requests, installation.storage, app_id, uid, actor)
            for uid in people.person.uids
        )
        finished_at = now()
        receipt = Receipt(
            erasure_id=erasure.id,
            app_id=app_id,
            selection_sha256=erasure.selection_sha256,
            uids=erasure.counted.uids,
            merged_uids=erasure.counted.merged_uids,
            device_ids=erasure.counted.device_ids,
            kept_device_ids=erasure.counted.shared_device_ids,
            collections=tuple(
                ErasedCollection(
                    database=counted.database,
                    collection=counted.collection,
                    is_view=counted.is_view,
                    deleted=counted.own,
                    detached=counted.shared,
                    left=left.get((counted.database, counted.collection), 0),
                )
                for counted in erasure.counted.collections
            ),
            requests_forgotten=forgotten,
            ledger_entries=len(entry.hashes),
            requested_by=erasure.requested_by,
            requested_at=erasure.requested_at,
            finished_by=actor,
            finished_at=finished_at,
            catalog_sha256=installation.catalog.sha256,
            software=software_version(),
        )
        ledger.write(entry.model_copy(update={"erased_at": finished_at}))
        self.records.finish(erasure.id, receipt.model_dump(mode="json"), finished_at, actor)
        return receipt

    def _found(self, app_id: str, uids: Sequence[str]) -> tuple[ErasedPeople, Counted]:
        """Return who is to be erased, and what they have now."""
        targets = find_targets(self._installation, app_id)
        people = with_hooks_called(app_id, targets, find_people(self._installation, app_id, uids))
        return people, Counted(
            uids=len(people.person.requested_uids),
            merged_uids=len(people.person.merged_uids),
            device_ids=len(people.person.device_ids),
            shared_device_ids=len(people.shared_devices),
            collections=tuple(self._counted_one(app_id, target, people) for target in targets),
        )

    def _counted_one(self, app_id: str, target: Target, people: ErasedPeople) -> CountedCollection:
        found = erasable(self._installation, app_id, target, people).count()
        database, collection = target.name
        return CountedCollection(
            database=database, collection=collection, is_view=target.is_view, own=found.own, shared=found.shared
        )

    def _secret_key(self) -> str:
        secret = self._installation.settings.secret_key
        return "" if secret is None else secret.get_secret_value()  # LedgerKey.of has refused to go on without


def storages_of_backups(installation: Installation, app_id: str) -> list[Storage]:
    """Return the installation's storage, and each other one that holds a backup of the app."""
    storages = {installation.settings.storage_root: installation.storage}
    for request in [*installation.requests.of_app(app_id), *installation.requests.of_app(ALL_APPS)]:
        root = request.options.get("storage")
        if root is not None and root not in storages and request.status in ("running", "completed"):
            storages[root] = storage_of(installation, request)
    return list(storages.values())


def check_growth(counted: Counted, now_there: Counted) -> None:
    """Raise ErasureRefusedError where much more would be deleted than the dry run said."""
    before = {(collection.database, collection.collection): collection.documents for collection in counted.collections}
    for collection in now_there.collections:
        named = before.get((collection.database, collection.collection), 0)
        if collection.documents > named + max(MAY_GROW_BY, named * MAY_GROW):
            raise ErasureRefusedError(
                f"{collection.collection}: the dry run counted {named} documents, now there are "
                f"{collection.documents}; make a new one"
            )
