"""Writing one planned part: its documents are read, hashed, and put into a file, or into more where one is too small.

A part can be written twice: what is finished has a record, and is taken up.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError
from pymongo import MongoClient

from export_pipeline.backups.content import UnorderedContent
from export_pipeline.backups.manifest import PartFile
from export_pipeline.backups.parts import PartFormat, content_limit, open_content, part_format, part_name
from export_pipeline.backups.plan import BackupPlan, Planned, PlannedCollection, PlannedPart, selector_of
from export_pipeline.backups.reading import CollectionReader, read_ahead
from export_pipeline.encryption.age import parse_recipient
from export_pipeline.errors import IncompleteError
from export_pipeline.formats.protocol import Survey
from export_pipeline.mongo.bson_stream import Piece, whole_documents
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.pressure import Pace
from export_pipeline.packages.hashing import HashingSink, sha256_of
from export_pipeline.packages.layers import Layers, Lock
from export_pipeline.packages.parts import _id_of as id_of
from export_pipeline.settings import Settings
from export_pipeline.storage import PendingFile, Storage

OnDocuments = Callable[[int], None]
"""Called with the number of documents that have just been written, which is 0 while reading pauses."""


class PartRecord(Planned):
    """What became of a planned part."""

    plan_id: str
    number: int
    files: tuple[PartFile, ...]
    """None where there were no documents."""

    @property
    def documents(self) -> int:
        """How many documents the files hold."""
        return sum(file.documents for file in self.files)


def record_key(folder: str, number: int) -> str:
    """Return where a part's record is, in the backup's ``folder``."""
    return f"{folder}/records/{number:06}.json"


def load_record(storage: Storage, folder: str, plan: BackupPlan, part: PlannedPart) -> PartRecord | None:
    """Return a part's record; None where it is not finished, or was by another plan."""
    key = record_key(folder, part.number)
    if not storage.exists(key):
        return None
    with storage.open(key) as file:
        try:
            record = PartRecord.model_validate_json(file.read())
        except ValidationError:  # another version's
            return None
    return record if record.plan_id == plan.plan_id else None


def write_part(
    client: MongoClient[Document],
    settings: Settings,
    storage: Storage,
    folder: str,
    plan: BackupPlan,
    part: PlannedPart,
    on_documents: OnDocuments = lambda _: None,
) -> PartRecord:
    """Write a planned part below the backup's ``folder``, and its record last; a finished one is taken up.

    Raises SnapshotTooOldError where the server no longer has the plan's moment; IncompleteError where a file does not
    read back; what reading and the storage raise.
    """
    finished = load_record(storage, folder, plan, part)
    if finished is not None:
        on_documents(finished.documents)
        return finished
    collection = plan.collection_of(part)
    reader = CollectionReader(
        client,
        plan.cluster_time if collection.point_in_time else None,
        settings.read_timeout,
        Pace(client, settings, lambda: on_documents(0)),
    )
    survey = part_format(plan.options.format).survey()
    if survey is not None:
        for piece in _pieces(reader, plan, part):
            survey.see(collection.name, piece)
            on_documents(0)
    with _Files(storage, f"{folder}/{collection.folder}", plan, part, survey) as files:
        for piece in _pieces(reader, plan, part):
            files.write(piece)
            on_documents(len(piece))
        record = PartRecord(plan_id=plan.plan_id, number=part.number, files=files.finish())
    with storage.create(record_key(folder, part.number)) as file:
        file.write(record.model_dump_json().encode())
        file.commit()
    return record


def _pieces(reader: CollectionReader, plan: BackupPlan, part: PlannedPart) -> Iterator[Piece]:
    for batch in read_ahead(_batches(reader, plan.collection_of(part), plan.app_id, part)):
        if batch:
            yield Piece(batch, whole_documents(batch)[0])


def _batches(
    reader: CollectionReader, collection: PlannedCollection, app_id: str, part: PlannedPart
) -> Iterator[bytes]:
    selector = selector_of(collection, app_id, settled=part.settled)
    if collection.app_filter is not None:
        return reader.app_batches(collection.source, selector)
    split = collection.time_split
    if collection.structure.kind != "collection" or (split and (split.since or not part.settled)):
        return reader.stored_batches(collection.source, selector)
    return reader.range_batches(collection.source, part.ids, selector)


class _Files:
    """The files of one planned part. Leaving the block before ``finish`` leaves nothing of the last one."""

    def __init__(
        self, storage: Storage, folder: str, plan: BackupPlan, part: PlannedPart, survey: Survey | None
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._plan = plan
        self._part = part
        self._survey = survey
        self._collection = plan.collection_of(part)
        self._limit = content_limit(plan.options)
        self._stack = ExitStack()
        self._open: _File | None = None
        self._finished: list[PartFile] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.give_up()
        self._stack.__exit__(kind, error, trace)  # the storage explains what went wrong with it

    def write(self, piece: Piece) -> None:
        """Write documents; where the file would become too large, it ends, and another one begins."""
        begin = 0
        while begin < len(piece):
            if self._open is None:
                self._open = self._begin()
            taken = self._open.add(piece if begin == 0 else piece.cut(begin, len(piece)), self._limit)
            begin += taken
            if begin < len(piece):
                self._end()

    def finish(self) -> tuple[PartFile, ...]:
        """End the last file and return them all."""
        if self._open is not None:
            self._end(last=True)
        # A former attempt may have made more of what cannot be read at one moment.
        number = len(self._finished)
        while self._storage.exists(surplus := self._key(part_name(self._part.stem, number, self._plan.options))):
            self._storage.delete(surplus)
            number += 1
        return tuple(self._finished)

    def _key(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _begin(self) -> "_File":
        name = part_name(self._part.stem, len(self._finished), self._plan.options)
        pending = self._stack.enter_context(self._storage.create(self._key(name)))
        return _File(name, pending, self._plan, self._collection, self._survey)

    def _end(self, *, last: bool = False) -> None:
        assert self._open is not None
        file = self._open.end(settled=self._part.settled)
        base = self._part.base
        if last and base is not None and not self._finished and _same_documents(base, file):
            assert self._plan.base is not None
            self._finished.append(base.model_copy(update={"backup_id": base.backup_id or self._plan.base.backup_id}))
        else:
            self._open.commit()
            self._finished.append(file)
        self._open = None
        self._stack.close()


def _same_documents(base: PartFile, file: PartFile) -> bool:
    return (base.documents, base.documents_sha256) == (file.documents, file.documents_sha256)


class _File:
    """One file, and all that is counted and hashed on the way into it."""

    def __init__(
        self, name: str, pending: PendingFile, plan: BackupPlan, collection: PlannedCollection, survey: Survey | None
    ) -> None:
        options = plan.options
        self._name = name
        self._pending = pending
        self._options = options
        self._format: PartFormat = part_format(options.format)
        self._stored = HashingSink(pending.write)
        lock = Lock([parse_recipient(text) for text in options.recipients]) if options.recipients else None
        self._layers = Layers(self._stored, options.compression, lock)
        self._is_plain = lock is None and options.compression == "none"
        self._content = self._stored if self._is_plain else HashingSink(self._layers.write)
        self._writer = self._format.writer(self._content, collection.name, survey)
        self._of_documents: Any = None if options.format == "bson" else hashlib.sha256()
        self._sum = UnorderedContent() if collection.order == "unordered" else None
        self._documents = self._bytes = 0
        self._first = self._last = b""

    def add(self, piece: Piece, limit: int) -> int:
        count = self._writer.add(piece, limit)
        if count:
            taken = piece.cut(0, count)
            self._first, self._last = self._first or taken.first, taken.last
            self._documents += count
            self._bytes += len(taken.data)
            if self._of_documents is not None:
                self._of_documents.update(taken.data)
            if self._sum is not None:
                self._sum.add(taken)
        return count

    def end(self, *, settled: bool) -> PartFile:
        """End the file and read it back, where it is not as plain as what was hashed on the way in."""
        self._writer.close()
        self._layers.close()
        if not self._is_plain or self._options.format != "bson":
            self._verify()
        plain = self._content.sha256()
        return PartFile(
            name=self._name,
            backup_id=None,
            settled=settled,
            first_id=id_of(self._first),
            last_id=id_of(self._last),
            documents=self._documents,
            documents_bytes=self._bytes,
            documents_sha256=plain if self._of_documents is None else self._of_documents.hexdigest(),
            documents_sum=self._sum.sha256() if self._sum else None,
            plain_bytes=self._content.size,
            plain_sha256=plain,
            file_bytes=self._stored.size,
            file_sha256=self._stored.sha256(),
        )

    def commit(self) -> None:
        self._pending.commit()

    def give_up(self) -> None:
        self._layers.give_up()

    def _verify(self) -> None:
        with self._pending.read_back() as written:
            if sha256_of(open_content(written, self._options, self._layers.keys)) != self._content.sha256():
                raise IncompleteError(f"{self._name}: the file read back does not open to what was written")
        if self._options.format == "bson":
            return  # its content is the documents that were counted
        with self._pending.read_back() as written:
            if self._format.count(open_content(written, self._options, self._layers.keys)) != self._documents:
                raise IncompleteError(f"{self._name}: the file read back holds another number of documents")
