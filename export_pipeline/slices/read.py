"""Reading a slice: one query per collection and batch (more only past thousands of uids), split by owner."""

from collections.abc import Callable

from pymongo import MongoClient

from export_pipeline.catalog.model import Entry
from export_pipeline.errors import ExportPipelineError
from export_pipeline.mongo.bson_stream import documents, view, whole_documents
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.snapshot import CollectionId, SnapshotReader
from export_pipeline.settings import Settings
from export_pipeline.slices.ownership import values_at
from export_pipeline.slices.plan import BatchPlan, Failure, selector
from export_pipeline.slices.slice_file import (
    SliceIndex,
    SliceWriter,
    data_key,
    load_index,
    store_index,
)
from export_pipeline.storage import Storage

OnRead = Callable[[int], None]
"""Called with the number of documents that have just been read."""


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
    requests that need it, not their neighbours. Raises what is not the collection's fault (storage).
    """
    finished = load_index(storage, plan.batch_id, entry.name)
    if finished is not None and finished.outcome != "failed":
        return finished
    planned = plan.collection(entry.name)
    if planned.failure is not None:
        index = SliceIndex(name=entry.name, outcome="failed", failure=planned.failure)
    elif planned.source is None:
        index = SliceIndex(name=entry.name, outcome="absent")
    else:
        reader = SnapshotReader(client, plan.cluster_time, settings.read_timeout)
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
    ownership = plan.ownership()
    path = entry.user_key.split(".")
    hidden = dict.fromkeys(entry.exclude, 0)
    found = 0
    with storage.create(data_key(plan.batch_id, entry.name)) as file:
        writer = SliceWriter(file)
        try:
            for query, uids in enumerate(ownership.queries):
                for batch in reader.raw_batches(source, selector(entry, uids), hidden):
                    in_batch = 0
                    if ownership.only_owner is not None:
                        in_batch = len(whole_documents(batch)[0])
                        writer.add(ownership.only_owner, batch, in_batch)
                    else:
                        for document in documents(batch):
                            owners = ownership.owners(values_at(view(document), path), query)
                            in_batch += bool(owners)
                            for owner in owners:
                                writer.add(owner, document)
                    found += in_batch
                    on_read(in_batch)
        except ExportPipelineError as error:
            return SliceIndex(name=entry.name, outcome="failed", failure=Failure.of(error))
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
