"""The plan of a backup: its moment, its collections, and the parts that anybody may write, in any order, anywhere.

It is stored in the backup's folder, so that a backup that was interrupted goes on where it was.
"""

import base64
import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from export_pipeline.backups.content import Order
from export_pipeline.backups.manifest import AppFilter, BackupOptions, Base, Method, PartFile
from export_pipeline.backups.ranges import IdRange
from export_pipeline.backups.scope import app_value
from export_pipeline.backups.structure import Structure
from export_pipeline.catalog.model import Shared
from export_pipeline.mongo.connection import Document
from export_pipeline.mongo.snapshot import ClusterTime, CollectionId

OPEN_FOR = timedelta(hours=1)
"""How late a document may still come into a collection that is only added to."""


class Planned(BaseModel):
    """Base of what a plan is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeSplit(Planned):
    """How the documents of a collection that is only added to are told apart, by their time."""

    field: str
    unit: Literal["s", "ms", "date"]
    since: datetime | None
    """What is older, the base holds; None: it holds nothing."""
    until: datetime
    """What is older is settled."""


class PlannedCollection(Planned):
    """One collection or view."""

    name: str
    database: str
    uuid: UUID | None
    folder: str
    structure: Structure
    app_filter: AppFilter | None
    time_split: TimeSplit | None
    method: Method
    order: Order
    point_in_time: bool
    expected: int | None
    """Of all documents, those that the base holds included; None where nobody can count what will be read."""
    kept: tuple[PartFile, ...]
    """Files of the base, or of those before it, that go on standing for their documents."""

    @property
    def source(self) -> CollectionId:
        """What is read."""
        return CollectionId(self.database, self.name, self.uuid)


class PlannedPart(Planned):
    """Documents that are written together: to one file, as a rule, to more where they are too many for one."""

    number: int
    collection: int
    """Its place in the plan."""
    stem: str
    """What the names of its files begin with."""
    begin: str | None
    end: str | None
    """The range of ids, see ``ids``; None where nothing bounds it."""
    settled: bool
    base: PartFile | None
    """The file that stands for these documents, if they are still those that it holds."""

    @property
    def ids(self) -> IdRange:
        """The range of ids."""
        return IdRange(_bytes(self.begin), _bytes(self.end))


class BackupPlan(Planned):
    """All that is decided before the first document is read."""

    plan_id: str
    """Another one for each plan: what was written by one is never mixed with what was written by the next."""
    backup_id: str
    app_id: str
    options: BackupOptions
    base: Base | None
    cluster_time: ClusterTime | None
    read_at: datetime
    server_version: str
    catalog_version: int
    catalog_sha256: str
    databases: tuple[str, ...]
    collections: tuple[PlannedCollection, ...]
    parts: tuple[PlannedPart, ...]
    left_out: tuple[str, ...]

    @property
    def expected(self) -> int:
        """How many documents are known to come."""
        return sum(collection.expected or 0 for collection in self.collections)

    def collection_of(self, part: PlannedPart) -> PlannedCollection:
        """Return the collection that a part belongs to."""
        return self.collections[part.collection]


def new_plan_id() -> str:
    """Return an id that no plan has had."""
    return secrets.token_hex(8)


def id_text(document: bytes | None) -> str | None:
    """Return a boundary, ``{"_id": …}`` as BSON, as the plan has it: every bit of it counts."""
    return None if document is None else base64.b64encode(document).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def selector_of(collection: PlannedCollection, app_id: str, *, settled: bool) -> Document:
    """Return the filter for a collection's documents: the app's, or the settled ones, or those that are not yet."""
    filter_ = collection.app_filter
    if filter_ is not None:
        shared = Shared(collection=collection.name, database=None, app_key=filter_.app_key, key_type=filter_.key_type)
        return {shared.app_key: app_value(shared, app_id)}
    if collection.time_split is None:
        return {}
    split = collection.time_split
    newer = _from(split, split.until)
    if not settled:
        return newer
    # Not "older": a document without a time, or with one of another type, is settled too.
    older: Document = {"$nor": [newer]}
    return older if split.since is None else {"$and": [_from(split, split.since), older]}


def whole_moment(at: datetime) -> datetime:
    """Return a time that a plan, a manifest and every unit of time have alike: in whole seconds, as UTC."""
    return at.astimezone(UTC).replace(microsecond=0)


def _from(split: TimeSplit, moment: datetime) -> Document:
    seconds = int(moment.timestamp())
    values = {"s": seconds, "ms": seconds * 1000, "date": moment}
    return {split.field: {"$gte": values[split.unit]}}
