"""Manifests and parts for tests that need no database."""

from datetime import UTC, datetime
from typing import Any

from export_pipeline.backups.content import content_sha256
from export_pipeline.backups.manifest import (
    BackedUpCollection,
    BackupManifest,
    BackupOptions,
    PartFile,
    totals_of,
)
from export_pipeline.backups.structure import Structure
from export_pipeline.packages.manifest import CatalogUsed, PointInTime

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
PLAIN = Structure(
    kind="collection",
    options={},
    indexes=({"v": {"$numberInt": "2"}, "key": {"_id": {"$numberInt": "1"}}, "name": "_id_"},),
)


def part(name: str = "part-00000.bson", documents: int = 2, **changes: Any) -> PartFile:
    figures = {
        "name": name,
        "backup_id": None,
        "settled": True,
        "first_id": {"$numberInt": "1"},
        "last_id": {"$numberInt": "2"},
        "documents": documents,
        "documents_bytes": 100,
        "documents_sha256": "a" * 64,
        "documents_sum": None,
        "plain_bytes": 100,
        "plain_sha256": "a" * 64,
        "file_bytes": 100,
        "file_sha256": "a" * 64,
    }
    return PartFile.model_validate(figures | changes)


def collection(name: str = "events", parts: tuple[PartFile, ...] = (), **changes: Any) -> BackedUpCollection:
    documents = sum(each.documents for each in parts)
    figures = {
        "name": name,
        "database": "countly",
        "folder": name,
        "structure": PLAIN,
        "fingerprint": PLAIN.fingerprint,
        "app_filter": None,
        "method": "whole",
        "complete_until": None,
        "point_in_time": True,
        "documents_expected": documents,
        "documents_written": documents,
        "documents_bytes": sum(each.documents_bytes for each in parts),
        "order": "_id",
        "content_sha256": content_sha256("_id", parts),
        "parts": parts,
    }
    return BackedUpCollection.model_validate(figures | changes)


def manifest(*collections: BackedUpCollection, **changes: Any) -> BackupManifest:
    figures = {
        "format_version": 1,
        "backup_id": "0197f0c0-0000-7000-8000-000000000001",
        "app_id": "652f1a7e9c3b4d0012ab34c1",
        "kind": "full",
        "base": None,
        "databases": ("countly",),
        "moment": PointInTime(point_in_time=True, cluster_time="1.1", read_at=AT, note=None),
        "server_version": "6.0.5",
        "software": "export_pipeline 0.1.0",
        "options": BackupOptions(),
        "catalog": CatalogUsed(version=1, sha256="b" * 64),
        "collections": collections,
        "left_out": (),
        "totals": totals_of(collections),
        "requested_by": "test",
        "requested_at": AT,
        "planned_at": AT,
        "sealed_at": AT,
    }
    return BackupManifest.model_validate(figures | changes)
