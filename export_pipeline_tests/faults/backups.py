"""Backups of everything: asking for one, and comparing it with one that nothing has disturbed.

The data are those of the exports, and an app with a collection of every kind and every type of BSON.
"""

import hashlib
from functools import cache
from typing import Any

from export_pipeline.backups.backup import Backups
from export_pipeline.backups.content import UnorderedContent
from export_pipeline.backups.manifest import BackedUpCollection
from export_pipeline.backups.removal import backup_folder, remove_backup
from export_pipeline.backups.restore_source import BackupSource, find_backup
from export_pipeline.backups.seal import metadata_name
from export_pipeline.backups.verify import load_manifest, verify_backup
from export_pipeline.errors import ExportPipelineError
from export_pipeline.packages.layers import Keys
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.requests.backups import NewBackup
from export_pipeline.requests.models import ALL_APPS, Request
from export_pipeline_tests.backups.test_restore import fill
from export_pipeline_tests.bench import crowd
from export_pipeline_tests.faults import stages
from export_pipeline_tests.faults.house import House

PLANNED = "planned"
PARTS_HALF = "parts half"
IN_A_PART = "in a part"
SEALING = "sealing"
SEALED = "sealed"

IN_THE_RUN = (stages.PLANNING, PLANNED, PARTS_HALF, IN_A_PART, SEALING, SEALED, stages.RECORDING, stages.RECORDED)
"""Those that the run process passes. ``sealed``: the manifest is in its place, and what was needed on the way to it is
still there."""

PART_BYTES = 2_000_000
"""Some 25 parts, of which many are larger than what is written to the disk, or to S3, at a time."""

Contents = dict[str, tuple[str, str]]
"""By collection: the fingerprint of its structure, and the hash of its documents."""


def submit(house: House) -> list[Request]:
    """Ask for a backup of all apps: as it is, or compressed and encrypted, in turn."""
    undisturbed(house)
    forms: tuple[dict[str, Any], ...] = ({}, {"compression": "zstd", "recipients": [str(house.identity.recipient)]})
    form = {"part_bytes": PART_BYTES, **forms[next(house.numbers) % len(forms)]}
    return [Backups(house.exporter).submit(NewBackup(ALL_APPS, form, requested_by="faults"))]


@cache
def undisturbed(house: House) -> Request:
    """Return the backup that is compared with: made once for an installation, by the harness itself."""
    fill(house.exporter.client, crowd.DATABASE)
    new = NewBackup(ALL_APPS, {"part_bytes": PART_BYTES}, requested_by="faults")
    backups = Backups(house.exporter)
    request = backups.submit(new, run_here=True)
    backups.run(request)
    house.kept |= set(files_of(house, request))
    return house.rows([request])[0]


def what_is_wrong(house: House, request: Request) -> str | None:
    """Check a backup: against its manifest, its row, and the documents of the undisturbed one."""
    folder = backup_folder(request)
    keys = Keys([house.identity] if request.options.get("recipients") else [])
    try:
        manifest = verify_backup(house.exporter.storage, folder, keys).manifest
        documents = contents(house, request)
    except ExportPipelineError as error:
        return f"{error.code}: {error}"
    totals = (manifest.totals.documents, manifest.totals.file_bytes)
    if totals != (request.documents_done, request.result_bytes):
        return "its row is about another backup"
    expected = _undisturbed_contents(house)
    changed = [name for name in sorted(expected | documents) if expected.get(name) != documents.get(name)]
    return f"not as in the undisturbed backup: {', '.join(changed)}" if changed else None


@cache
def _undisturbed_contents(house: House) -> Contents:
    return contents(house, undisturbed(house))


def contents(house: House, request: Request) -> Contents:
    """Read all that a backup holds."""
    source = BackupSource(find_backup(house.exporter, request.id), Keys([house.identity]))
    return {each.name: (each.fingerprint, _documents(source, each)) for each in source.manifest.collections}


def _documents(source: BackupSource, collection: BackedUpCollection) -> str:
    """Return the SHA-256 of a collection's documents, end to end, wherever it is cut into parts."""
    in_order, unordered = hashlib.sha256(), UnorderedContent()
    for part in collection.parts:
        for piece in source.pieces(collection, part):
            in_order.update(piece.data)
            unordered.add(piece)
    return unordered.sha256() if collection.order == "unordered" else in_order.hexdigest()


def files_of(house: House, request: Request) -> list[str]:
    """Return the keys of the files that a backup's manifest names, and its own; none where there is none."""
    storage, folder = house.exporter.storage, backup_folder(request)
    if not storage.exists(f"{folder}/{MANIFEST}"):
        return []
    collections = load_manifest(storage, folder).collections
    parts = [f"{each.folder}/{part.name}" for each in collections for part in each.parts]
    metadata = [f"{each.folder}/{metadata_name(each)}" for each in collections]
    return [f"{folder}/{name}" for name in (MANIFEST, *parts, *metadata)]


def remove(house: House, request: Request) -> None:
    """Remove a backup, as retention does."""
    remove_backup(house.exporter.requests, house.exporter.storage, request)
