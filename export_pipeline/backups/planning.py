"""Making a backup's plan: which collections there are, the moment, how many documents, how they are cut into parts."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, pairwise

from pymongo import MongoClient

from export_pipeline.backups.content import Order
from export_pipeline.backups.manifest import (
    AppFilter,
    BackedUpCollection,
    BackupManifest,
    BackupOptions,
    Base,
    PartFile,
)
from export_pipeline.backups.parts import part_format, range_bytes
from export_pipeline.backups.plan import (
    OPEN_FOR,
    BackupPlan,
    PlannedCollection,
    PlannedPart,
    TimeSplit,
    id_text,
    new_plan_id,
    selector_of,
    whole_moment,
)
from export_pipeline.backups.ranges import IdRange, documents_per_range, ranges_between, size_of
from export_pipeline.backups.reading import CollectionReader, collection_ids
from export_pipeline.backups.scope import Scoped, app_value, databases_of, scope_of
from export_pipeline.backups.structure import Structure, read_structures
from export_pipeline.catalog.model import LoadedCatalog
from export_pipeline.errors import BadInputError, UnknownAppError
from export_pipeline.formats.extended_json_reader import decode_document
from export_pipeline.mongo.connection import Document, driver_errors
from export_pipeline.mongo.pressure import Pace
from export_pipeline.mongo.snapshot import Moment, choose_moment
from export_pipeline.settings import Settings

LANES = 2
"""Threads of one process, each with its own part: while the disk takes one of them, the server answers the other."""

WORKING_FILES = ("plan.json", "manifest.json", "records")
"""What a backup's folder holds beside its collections' folders."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")
_NO_SNAPSHOT = {"capped", "view"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for."""

    backup_id: str
    app_id: str
    options: BackupOptions
    base: BackupManifest | None = None
    base_sha256: str = ""


def make_plan(
    client: MongoClient[Document],
    settings: Settings,
    catalog: LoadedCatalog,
    wanted: Wanted,
    on_pause: Callable[[], None] = lambda: None,
) -> BackupPlan:
    """Find the collections, choose the moment, count, and cut.

    Raises UnknownAppError where there is nothing of the app, BadInputError where the base does not fit,
    PointInTimeError where the server has none and the settings demand it, and what reading raises.
    """
    _check_base(wanted)
    databases = databases_of(catalog, settings.mongo_database)
    structures = {database: read_structures(client, database) for database in databases}
    scope = scope_of(structures, catalog, settings.mongo_database, wanted.app_id)
    if not any(scoped.shared is None for scoped in scope.collections):
        raise UnknownAppError(
            f"no collection of app {wanted.app_id} exists; check the app id, EXPORT_PIPELINE_MONGO_DATABASE and "
            "EXPORT_PIPELINE_CATALOG"
        )
    for scoped in scope.collections:
        if scoped.shared is not None:
            app_value(scoped.shared, wanted.app_id)
    pace = Pace(client, settings, on_pause)
    with driver_errors("the state of the source"):
        pace.wait()  # before the moment is chosen: it is in the server's history for some minutes only
    read_at = datetime.now(UTC)
    moment = _choose_moment(client, settings, scope.collections, structures)
    planner = _Planner(client, settings, wanted, moment, read_at, pace)
    folders = folder_names([(scoped.database, scoped.name) for scoped in scope.collections])
    tasks = [
        (scoped, structures[scoped.database][scoped.name], folders[scoped.database, scoped.name])
        for scoped in scope.collections
    ]
    with ThreadPoolExecutor(LANES) as lanes:
        planned = list(lanes.map(lambda task: planner.plan(*task), tasks))
    return BackupPlan(
        plan_id=new_plan_id(),
        backup_id=wanted.backup_id,
        app_id=wanted.app_id,
        options=wanted.options,
        base=Base(backup_id=wanted.base.backup_id, manifest_sha256=wanted.base_sha256) if wanted.base else None,
        cluster_time=moment.cluster_time,
        read_at=read_at,
        server_version=str(client.server_info()["version"]),
        catalog_version=catalog.version,
        catalog_sha256=catalog.sha256,
        databases=tuple(databases),
        collections=tuple(collection for collection, _ in planned),
        parts=tuple(_numbered([parts for _, parts in planned])),
        left_out=scope.left_out,
    )


def folder_names(collections: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return each collection's folder: its name, where that is a plain one that no other has, whatever its case.

    >>> folder_names([("countly", "events"), ("countly", "Events"), ("countly", "a b")])[("countly", "events")]
    'events'
    """
    folders: dict[tuple[str, str], str] = {}
    taken = set(WORKING_FILES)
    for database, name in sorted(collections):
        folder = name
        if not _PLAIN_NAME.fullmatch(name) or name.lower() in taken:
            plain, place = re.sub("[^A-Za-z0-9_-]", "_", name)[:80], "\0".join((database, name))
            folder = f"{plain}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
        taken.add(folder.lower())
        folders[database, name] = folder
    return folders


def _check_base(wanted: Wanted) -> None:
    base = wanted.base
    if base is None:
        return
    if base.app_id != wanted.app_id:
        raise BadInputError(f"base: backup {base.backup_id} is of another app; make a full backup")
    if base.options != wanted.options:
        raise BadInputError(
            f"base: backup {base.backup_id} has another format, compression, part size or recipients, and its files "
            "cannot stand beside these; ask for the same, or make a full backup"
        )


def _choose_moment(
    client: MongoClient[Document],
    settings: Settings,
    collections: Sequence[Scoped],
    structures: Mapping[str, Mapping[str, Structure]],
) -> Moment:
    """Choose the moment for all that can be read at one; what cannot is found as it is now."""

    def named(*, at_one_moment: bool) -> list[tuple[str, str]]:
        return [
            (each.database, each.name)
            for each in collections
            if (structures[each.database][each.name].kind not in _NO_SNAPSHOT) == at_one_moment
        ]

    moment = choose_moment(client, named(at_one_moment=True), required=settings.require_point_in_time)
    others = collection_ids(client, named(at_one_moment=False))
    return Moment(moment.cluster_time, {**moment.collections, **others})


def _numbered(parts_of: Iterable[Sequence["_Cut"]]) -> Iterator[PlannedPart]:
    """Yield the parts of all collections; the larger collections' parts come in their order, one after another."""
    numbers = count()
    for collection, parts in enumerate(parts_of):
        for place, part in enumerate(parts):
            yield PlannedPart(
                number=next(numbers),
                collection=collection,
                stem=f"part-{place:05}",
                begin=id_text(part.ids.begin),
                end=id_text(part.ids.end),
                settled=part.settled,
                base=part.base,
            )


ALL_IDS = IdRange()


@dataclass(frozen=True, slots=True)
class _Cut:
    ids: IdRange = ALL_IDS
    settled: bool = True
    base: PartFile | None = None


class _Planner:
    """Plans one collection after another; threads may share it."""

    def __init__(
        self,
        client: MongoClient[Document],
        settings: Settings,
        wanted: Wanted,
        moment: Moment,
        read_at: datetime,
        pace: Pace,
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._moment = moment
        self._until = whole_moment(read_at - OPEN_FOR)
        self._reader = CollectionReader(client, moment.cluster_time, settings.read_timeout, pace)
        self._base = (
            {(each.database, each.name): each for each in wanted.base.collections} if wanted.base is not None else {}
        )

    def plan(self, scoped: Scoped, structure: Structure, folder: str) -> tuple[PlannedCollection, list[_Cut]]:
        source = self._moment.collections.get((scoped.database, scoped.name))
        planned = PlannedCollection(
            name=scoped.name,
            database=scoped.database,
            uuid=source.uuid if source else None,
            folder=folder,
            structure=structure,
            app_filter=AppFilter(app_key=scoped.shared.app_key, key_type=scoped.shared.key_type)
            if scoped.shared
            else None,
            time_split=None,
            method="structure" if structure.kind == "view" else "whole",
            order=_order(structure, scoped),
            point_in_time=self._moment.cluster_time is not None and structure.kind not in _NO_SNAPSHOT,
            expected=None,
            kept=(),
        )
        if structure.kind == "view":
            return planned.model_copy(update={"expected": 0, "point_in_time": True}), []
        if structure.kind in ("capped", "timeseries") or planned.app_filter is not None:
            return planned.model_copy(update={"expected": self._count(planned)}), [_Cut()]
        if part_format(self._wanted.options.format).whole_collections:
            return self._plan_ranges(planned)
        if scoped.entry is not None and scoped.entry.append_only:
            return self._plan_added_to(planned, scoped)
        base = self._base.get((scoped.database, scoped.name))
        if base is not None and base.order == "_id" and base.app_filter is None and base.parts:
            cuts = [_Cut(ids, base=part) for ids, part in zip(_ranges_of(base), base.parts, strict=True)]
            return planned.model_copy(update={"method": "compared", "expected": self._count(planned)}), cuts
        return self._plan_ranges(planned)

    def _plan_ranges(self, planned: PlannedCollection) -> tuple[PlannedCollection, list[_Cut]]:
        source = planned.source
        step = None
        if not part_format(self._wanted.options.format).whole_collections:
            size = size_of(self._client, source.database, source.name)
            step = documents_per_range(size, range_bytes(self._wanted.options))
        boundaries = [] if step is None else list(self._reader.boundaries(source, step))
        ranges = list(ranges_between(boundaries))
        expected = None
        if planned.point_in_time:
            # The walk to the boundaries has counted all but the last range's.
            expected = (step or 0) * (len(ranges) - 1) + self._reader.count_range(source, ranges[-1])
        return planned.model_copy(update={"expected": expected}), [_Cut(ids) for ids in ranges]

    def _plan_added_to(self, planned: PlannedCollection, scoped: Scoped) -> tuple[PlannedCollection, list[_Cut]]:
        """Plan a collection that is only added to: settled documents, by ranges or since the base, then open ones."""
        assert scoped.entry is not None
        assert scoped.entry.time_field is not None
        assert scoped.entry.time_unit is not None
        split = TimeSplit(field=scoped.entry.time_field, unit=scoped.entry.time_unit, since=None, until=self._until)
        planned = planned.model_copy(update={"time_split": split, "order": "unordered"})
        base = self._base.get((scoped.database, scoped.name))
        if base is not None and base.complete_until is not None and planned.point_in_time:
            since = split.model_copy(update={"since": base.complete_until})
            newer = planned.model_copy(update={"time_split": since, "method": "since_time"})
            kept = tuple(part for part in base.parts if part.settled)
            expected, new = self._count(planned.model_copy(update={"time_split": None})), self._count(newer)
            # Where documents were removed, or came with an older time, the base's do not stand for what there is.
            if expected is not None and new is not None and sum(part.documents for part in kept) + new == expected:
                held = tuple(part.model_copy(update={"backup_id": part.backup_id or self._held_by}) for part in kept)
                return newer.model_copy(update={"expected": expected, "kept": held}), [_Cut(), _Cut(settled=False)]
        planned, cuts = self._plan_ranges(planned)
        return planned, [*cuts, _Cut(settled=False)]

    @property
    def _held_by(self) -> str:
        assert self._wanted.base is not None
        return self._wanted.base.backup_id

    def _count(self, planned: PlannedCollection) -> int | None:
        if not planned.point_in_time:
            return None
        split = planned.time_split
        if planned.app_filter is not None:
            selector = selector_of(planned, self._wanted.app_id, settled=True)
            return self._reader.count_all(planned.source, selector, byte_for_byte=True)
        if split is not None and split.since is not None:
            return sum(
                self._reader.count_all(planned.source, selector_of(planned, self._wanted.app_id, settled=settled))
                for settled in (True, False)
            )
        if planned.structure.kind == "timeseries":
            return self._reader.count_all(planned.source, {})
        return self._reader.count_range(planned.source, ALL_IDS)


def _order(structure: Structure, scoped: Scoped) -> Order:
    if structure.kind == "timeseries":
        return "unordered"
    return "natural" if structure.kind == "capped" and scoped.shared is None else "_id"


def _ranges_of(base: BackedUpCollection) -> list[IdRange]:
    """Return the ranges that the base's files are of, from the first document of each on."""
    boundaries = [decode_document(json.dumps({"_id": part.first_id}).encode()) for part in base.parts[1:]]
    return [IdRange(begin, end) for begin, end in pairwise([None, *boundaries, None])]
