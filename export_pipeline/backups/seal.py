"""Sealing a backup: every part's record and file are checked, and the manifest is written last, in one step.

Until then the folder is no backup. After it the plan and the records have served, and are removed.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from export_pipeline.backups.content import content_sha256
from export_pipeline.backups.dump import metadata_of
from export_pipeline.backups.manifest import (
    FORMAT_VERSION,
    BackedUpCollection,
    BackupManifest,
    PartFile,
    totals_of,
)
from export_pipeline.backups.plan import BackupPlan, PlannedCollection, PlannedPart
from export_pipeline.backups.planning import LANES
from export_pipeline.backups.write import PartRecord, load_record, record_key
from export_pipeline.errors import IncompleteError
from export_pipeline.packages.hashing import sha256_of
from export_pipeline.packages.manifest import CatalogUsed, PointInTime, software_version
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.requests.models import Request
from export_pipeline.storage import Storage

PLAN = "plan.json"


def seal(
    storage: Storage,
    folder: str,
    plan: BackupPlan,
    request: Request,
    on_file: Callable[[], None] = lambda: None,
) -> BackupManifest:
    """Check what the plan's parts became and publish the manifest; ``on_file`` is called after each file.

    Raises IncompleteError that names the part or the collection. A part whose file is not the one that was written is
    forgotten, so that trying again writes it anew.
    """
    records = {part.number: _record(storage, folder, plan, part) for part in plan.parts}

    def check(part: PlannedPart) -> None:
        _check_files(storage, folder, plan, part, records[part.number])
        on_file()

    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(check, plan.parts))
    collections = tuple(
        _sealed(collection, [records[part.number] for part in plan.parts if part.collection == place])
        for place, collection in enumerate(plan.collections)
    )
    manifest = manifest_of(plan, collections, request)
    for collection in collections:
        _store(storage, f"{folder}/{collection.folder}/{metadata_name(collection)}", metadata_of(collection))
    _store(storage, f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())
    return manifest


def remove_working_files(storage: Storage, folder: str) -> None:
    """Remove the plan and the records of a sealed backup; with them it would hold files that no backup has."""
    for working in ("records", PLAN):
        storage.delete(f"{folder}/{working}")


def metadata_name(collection: BackedUpCollection) -> str:
    """Return what the file with a collection's options and indexes is called, as mongodump has it."""
    return f"{collection.folder}.metadata.json"


def manifest_sha256(manifest: bytes) -> str:
    """Return what names the contents of a manifest."""
    return hashlib.sha256(manifest).hexdigest()


def _record(storage: Storage, folder: str, plan: BackupPlan, part: PlannedPart) -> PartRecord:
    record = load_record(storage, folder, plan, part)
    if record is None:
        raise IncompleteError(f"{_named(plan, part)} was not written; write it before the backup is sealed")
    return record


def _check_files(storage: Storage, folder: str, plan: BackupPlan, part: PlannedPart, record: PartRecord) -> None:
    for file in record.files:
        place = f"{plan.collection_of(part).folder}/{file.name}"
        if file.backup_id is None:
            problem = _problem(storage, f"{folder}/{place}", file)
        else:
            held = f"{folder.rpartition('/')[0]}/{file.backup_id}/{place}"
            problem = None if storage.exists(held) else f"is not in backup {file.backup_id}, which held it"
        if problem is not None:
            storage.delete(record_key(folder, part.number))
            raise IncompleteError(f"{place} {problem}; trying again writes it anew")


def _problem(storage: Storage, key: str, file: PartFile) -> str | None:
    if not storage.exists(key):
        return "is not there any more"
    with storage.open(key) as stored:
        return None if sha256_of(stored) == file.file_sha256 else "read back is not what was written"


def _sealed(collection: PlannedCollection, records: Sequence[PartRecord]) -> BackedUpCollection:
    parts = (*collection.kept, *(file for record in records for file in record.files))
    written = sum(part.documents for part in parts)
    if collection.expected is not None and written != collection.expected:
        raise IncompleteError(
            f"{collection.database}.{collection.name}: the server counted {collection.expected:,} documents, and "
            f"{written:,} were written"
        )
    return BackedUpCollection(
        name=collection.name,
        database=collection.database,
        folder=collection.folder,
        structure=collection.structure,
        fingerprint=collection.structure.fingerprint,
        app_filter=collection.app_filter,
        method=collection.method,
        complete_until=collection.time_split.until if collection.time_split else None,
        point_in_time=collection.point_in_time,
        documents_expected=collection.expected,
        documents_written=written,
        documents_bytes=sum(part.documents_bytes for part in parts),
        order=collection.order,
        content_sha256=content_sha256(collection.order, parts),
        parts=parts,
    )


def manifest_of(plan: BackupPlan, collections: tuple[BackedUpCollection, ...], request: Request) -> BackupManifest:
    """Return the manifest of a backup of these collections."""
    return BackupManifest(
        format_version=FORMAT_VERSION,
        backup_id=plan.backup_id,
        app_id=plan.app_id,
        kind="full" if plan.base is None else "incremental",
        base=plan.base,
        databases=plan.databases,
        moment=_moment(plan, collections),
        server_version=plan.server_version,
        software=software_version(),
        options=plan.options,
        catalog=CatalogUsed(version=plan.catalog_version, sha256=plan.catalog_sha256),
        collections=collections,
        left_out=plan.left_out,
        totals=totals_of(collections),
        requested_by=request.requested_by,
        requested_at=request.requested_at,
        planned_at=plan.read_at,
        sealed_at=datetime.now(UTC),
    )


def _moment(plan: BackupPlan, collections: Sequence[BackedUpCollection]) -> PointInTime:
    time = plan.cluster_time
    apart = [each.name for each in collections if not each.point_in_time]
    note = None
    if time is None:
        note = "this server cannot read at one point in time: collections were read in turn"
    elif apart:
        note = f"capped collections cannot be read at one point in time: {', '.join(apart)} as they were later"
    return PointInTime(
        point_in_time=time is not None and not apart,
        cluster_time=None if time is None else f"{time.seconds}.{time.increment}",
        read_at=plan.read_at,
        note=note,
    )


def _named(plan: BackupPlan, part: PlannedPart) -> str:
    return f"{plan.collection_of(part).folder}/{part.stem}"


def _store(storage: Storage, key: str, data: bytes) -> None:
    with storage.create(key) as file:
        file.write(data)
        file.commit()
