"""Reading a slice: one query per collection and batch (more only past thousands of uids), split by owner."""

import hmac
from collections.abc import Callable

from pymongo import MongoClient

from export_pipeline.catalog.model import Entry
from export_pipeline.errors import ExportPipelineError, MongoUnreachableError, StaleRequestError
from export_pipeline.mongo.bson_stream import documents, whole_documents
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.pressure import Pace, SourceUnderPressureError
from export_pipeline.mongo.snapshot import CollectionId, SnapshotReader
from export_pipeline.settings import Settings
from export_pipeline.slices.plan import BatchPlan, Failure
from export_pipeline.slices.queries import Query, SliceQueries
from export_pipeline.slices.redact import Redactor
from export_pipeline.slices.slice_file import SliceIndex, SliceWriter, data_key, load_index, store_index
from export_pipeline.slices.user_key import string_at
from export_pipeline.storage import Storage

OnRead = Callable[[int], None]
"""Called with the number of documents that have just been read, which is 0 while reading pauses."""


def read_slice(
    client: MongoClient[Document],
    settings: Settings,
    storage: Storage,
    plan: BatchPlan,
    entry: Entry,
    on_read: OnRead = lambda _: None,
) -> SliceIndex:
    """Read a collection's documents for the whole batch and store them; a slice that is finished is taken up.

    A collection that cannot be read gives a slice whose outcome is ``failed``, with the reason: it fails the
    requests that need it, not their neighbours. Raises what concerns all: MongoUnreachableError,
    SourceUnderPressureError, StorageError.
    """
    finished = load_index(storage, plan.batch_id, entry.name)
    if finished is not None and finished.outcome != "failed":
        return finished
    planned = plan.collection(entry.name)
    if planned is None:
        return SliceIndex(name=entry.name, outcome="not_asked")
    if planned.failure is not None:
        index = SliceIndex(name=entry.name, outcome="failed", failure=planned.failure)
    elif planned.source is None:
        index = SliceIndex(name=entry.name, outcome="absent")
    else:
        pace = Pace(client, settings, lambda: on_read(0))
        reader = SnapshotReader(client, plan.cluster_time, settings.read_timeout, pace)
        index = _read(reader, storage, plan, entry, planned.source, on_read)
    store_index(storage, plan.batch_id, index)
    return index


def _read(
    reader: SnapshotReader,
    storage: Storage,
    plan: BatchPlan,
    entry: Entry,
    source: CollectionId,
    on_read: OnRead,
) -> SliceIndex:
    try:
        batches = SliceQueries(entry, plan.narrowing, plan.app_id, plan.people).read(reader, source)
    except ExportPipelineError as error:  # a hook may fail now that did not when the batch was planned
        return _failed(entry, error)
    found = 0
    with storage.create(data_key(plan.batch_id, entry.name)) as file:
        writer = SliceWriter(file)
        split = _Splitter(plan, entry, writer)
        while True:
            try:
                in_batch = split(*next(batches))
            except StopIteration:
                break
            except (MongoUnreachableError, SourceUnderPressureError, StaleRequestError):
                raise  # no other collection can be read either, and to try each in turn would take minutes
            except ExportPipelineError as error:
                return _failed(entry, error)
            found += in_batch
            on_read(in_batch)
        owned = writer.finish()
        size = file.tell()
        file.commit()
    return SliceIndex(
        name=entry.name,
        outcome="exported" if found else "empty",
        documents=found,
        bytes=size,
        owned=owned,
    )


def _failed(entry: Entry, error: ExportPipelineError) -> SliceIndex:
    return SliceIndex(name=entry.name, outcome="failed", failure=Failure.of(error))


class _Splitter:
    """Gives each document of a batch to the requests that own it, without what must not leave."""

    def __init__(self, plan: BatchPlan, entry: Entry, writer: SliceWriter) -> None:
        self._writer = writer
        self._redactors: dict[str, Redactor] = {}
        self._own: dict[str, frozenset[str]] = {}
        self._owners: dict[tuple[int, bytes], set[str]] = {}
        if entry.exclude or entry.mask:
            for request_id, person in plan.people.items():
                # A key of its own for each request: people must not be able to compare their hashes.
                key = hmac.digest(bytes.fromhex(plan.redaction_key), request_id.encode(), "sha256")
                self._redactors[request_id] = Redactor(entry.exclude, entry.mask, key)
                self._own[request_id] = frozenset((*person.uids, *person.device_ids))

    def __call__(self, query: Query, batch: bytes) -> int:
        """Split a batch; return how many of its documents belong to somebody and were not found before."""
        if query.only_owner is not None and not self._redactors:
            in_batch = len(whole_documents(batch)[0])
            self._writer.add(query.only_owner, batch, in_batch)
            return in_batch
        in_batch = 0
        for document in documents(batch):
            owners = self._owners_of(query, document)
            in_batch += bool(owners)
            for owner in owners:
                self._writer.add(owner, self._redacted(owner, document))
        return in_batch

    def _owners_of(self, query: Query, document: bytes) -> set[str]:
        """Return what ``query.owners`` does, looking each uid up once where it stands there as a plain string."""
        uid = string_at(document, query.path[0].encode()) if len(query.path) == 1 else None
        if uid is None or query.only_owner is not None:
            return query.owners(document)
        owners = self._owners.get((query.number, uid))
        if owners is None:
            owners = query.ownership.owners([uid.decode(errors="surrogateescape")], query.number)
            self._owners[query.number, uid] = owners
        return owners

    def _redacted(self, owner: str, document: bytes) -> bytes:
        if not self._redactors:
            return document
        redacted, values = self._redactors[owner].apply(document, self._own[owner])
        self._writer.note_redacted(owner, values)
        return redacted
