"""A backup's manifest: which collections it holds, at which moment they were so, and the figures that prove each part.

It is written last, and seals the backup: a folder without one is no backup.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from export_pipeline.backups.structure import Structure
from export_pipeline.formats.protocol import Compression
from export_pipeline.packages.manifest import CatalogUsed, ManifestPart, PointInTime

FORMAT_VERSION = 1
DEFAULT_PART_BYTES = 100_000_000
BackupFormat = Literal["bson", "jsonl", "parquet", "csv"]
LOSSLESS: frozenset[BackupFormat] = frozenset({"bson", "jsonl", "parquet"})
"""The formats that a backup can be restored from."""

Method = Literal["whole", "compared", "since_time", "structure"]


class BackupOptions(ManifestPart):
    """In which form the parts are."""

    format: BackupFormat = "bson"
    compression: Compression = "none"
    """Of each file, as a whole; Parquet compresses inside and takes none."""
    recipients: tuple[str, ...] = ()
    """The public keys (age1…) of those who can open the parts; none: they are not encrypted."""
    part_bytes: int = DEFAULT_PART_BYTES
    """The most bytes of one file."""


class PartFile(ManifestPart):
    """One file: documents of one collection, a whole file of its format."""

    name: str
    """In the collection's folder."""
    backup_id: str | None
    """Of the earlier backup that holds the file, in a folder of the same name; None: this one holds it."""
    settled: bool
    """Of a collection that is only added to: whether its documents are older than ``complete_until``. Else true."""
    first_id: Any
    last_id: Any
    """Of the first and the last document, in canonical Extended JSON; None where they have none."""
    documents: int
    documents_bytes: int
    documents_sha256: str
    """Of the documents as BSON, end to end, in their order in the file, whatever the file's format is."""
    documents_sum: str | None
    """Of the documents of a collection without an order, see ``content.UnorderedContent``."""
    plain_bytes: int
    plain_sha256: str
    """Of the file's content, decrypted and unpacked."""
    file_bytes: int
    file_sha256: str
    """Of the file as it is stored."""


class AppFilter(ManifestPart):
    """Which documents of a shared collection are the app's: those whose ``app_key`` is the app's id."""

    app_key: str
    key_type: Literal["string", "objectId"]


class BackedUpCollection(ManifestPart):
    """One collection, or view."""

    name: str
    database: str
    folder: str
    """Below the backup's folder: the name, where that is a plain one."""
    structure: Structure
    fingerprint: str
    """Of the structure."""
    app_filter: AppFilter | None
    """For a shared collection of which only the app's documents are here; None: all of them."""
    method: Method
    """How the documents got here. ``whole``: all were read and written. ``compared``: all were read, and where a range
    of ids held what the base holds, the base's file stands for it. ``since_time``: the base's settled files, and what
    is newer by the time field. ``structure``: there are none to keep, it is a view."""
    complete_until: datetime | None
    """Of a collection that is only added to: from this time on, by its time field, documents may still come."""
    point_in_time: bool
    """Whether it was read at the manifest's cluster time; capped collections never can be."""
    documents_expected: int | None
    """Counted by the server at the same moment; None where reading and counting could not share one."""
    documents_written: int
    documents_bytes: int
    order: Literal["_id", "natural", "unordered"]
    """``_id``: the parts, one after another, are in the order of the index on _id. ``natural``: in that of a capped
    collection. ``unordered``: in no order that a restored collection would have."""
    content_sha256: str
    """Of all documents, see ``content``; a collection that was restored has the same."""
    parts: tuple[PartFile, ...]


class Base(ManifestPart):
    """The backup that an incremental one is made on."""

    backup_id: str
    manifest_sha256: str


class BackupTotals(ManifestPart):
    """Over all collections."""

    collections: int
    documents: int
    documents_bytes: int
    files: int
    """Those that this backup holds itself; ``files_of_others`` are held by earlier ones."""
    file_bytes: int
    files_of_others: int


class BackupManifest(ManifestPart):
    """The whole manifest."""

    format_version: Literal[1]
    backup_id: str
    """The request's id; its folder's name."""
    app_id: str
    """``*``: all apps."""
    kind: Literal["full", "incremental"]
    base: Base | None
    databases: tuple[str, ...]
    moment: PointInTime
    server_version: str
    software: str
    options: BackupOptions
    catalog: CatalogUsed
    collections: tuple[BackedUpCollection, ...]
    left_out: tuple[str, ...]
    """Collections, as ``database.name``, whose name ends like this app's id and that may as well be another app's."""
    totals: BackupTotals
    requested_by: str
    requested_at: datetime
    planned_at: datetime
    sealed_at: datetime

    @property
    def needs(self) -> frozenset[str]:
        """The ids of the other backups that hold files of this one: none of them may be removed before it."""
        held = {part.backup_id for collection in self.collections for part in collection.parts if part.backup_id}
        return frozenset(held | ({self.base.backup_id} if self.base else set()))


def totals_of(collections: Iterable[BackedUpCollection]) -> BackupTotals:
    """Return the totals over collections."""
    listed = list(collections)
    own = [part for collection in listed for part in collection.parts if part.backup_id is None]
    return BackupTotals(
        collections=len(listed),
        documents=sum(collection.documents_written for collection in listed),
        documents_bytes=sum(collection.documents_bytes for collection in listed),
        files=len(own),
        file_bytes=sum(part.file_bytes for part in own),
        files_of_others=sum(len(collection.parts) for collection in listed) - len(own),
    )
