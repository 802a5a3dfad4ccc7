"""Checking a package by reading it back: what the file holds against what its manifest says. Needs no database."""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from export_pipeline.errors import BadInputError, IncompleteError, StorageError
from export_pipeline.formats.registry import find_format
from export_pipeline.packages.manifest import Manifest

MANIFEST = "manifest.json"

_CHUNK = 1 << 20


def sha256_of(file: BinaryIO, offset: int = 0, length: int | None = None) -> str:
    """Return the hex SHA-256 of ``length`` bytes of ``file`` from ``offset``; to its end if ``length`` is None."""
    digest = hashlib.sha256()
    file.seek(offset)
    left = length
    while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
        digest.update(chunk)
        left = None if left is None else left - len(chunk)
    return digest.hexdigest()


def manifest_path(package: Path) -> Path:
    """Return where the manifest of a package in the file ``package`` goes."""
    return package.with_name(f"{package.name}.{MANIFEST}")


def read_manifest(package: Path) -> Manifest:
    """Return the manifest beside a package. Raises BadInputError where there is none, or it is not one of ours."""
    beside = [path for path in (manifest_path(package), package.with_name(MANIFEST)) if path.exists()]
    if not beside:
        raise BadInputError(f"{package}: there is no manifest beside it ({manifest_path(package).name} or {MANIFEST})")
    try:
        return Manifest.model_validate_json(beside[0].read_bytes())
    except (ValidationError, OSError):
        raise BadInputError(f"{beside[0]}: this is not a manifest of an export") from None


def verify_package(package: Path) -> Manifest:
    """Check a package against its manifest; return the manifest.

    Raises IncompleteError that says what differs: the file's bytes, a collection's bytes, or a count.
    """
    manifest = read_manifest(package)
    try:
        with package.open("rb") as file:
            _verify(file, manifest)
    except OSError as error:
        raise StorageError(f"{package}: {(error.strerror or 'cannot be read').lower()}") from None
    return manifest


def _verify(file: BinaryIO, manifest: Manifest) -> None:
    reports = manifest.collections
    written = sum(report.documents_written for report in reports)
    if any(report.documents_written != report.documents_expected for report in reports):
        raise IncompleteError("the manifest itself says that fewer or more documents were written than expected")
    if (written, written) != (manifest.totals.documents_written, manifest.totals.documents_expected):
        raise IncompleteError("the manifest's totals are not the sum of its collections")
    size = file.seek(0, os.SEEK_END)
    for report in reports:
        lies_inside = 0 <= report.offset <= report.offset + report.bytes <= size
        if not lies_inside or sha256_of(file, report.offset, report.bytes) != report.sha256:
            raise IncompleteError(f"the bytes of {report.collection} are not those that were written")
    if sha256_of(file) != manifest.file.sha256 or file.tell() != manifest.file.bytes:
        raise IncompleteError("the file is not the one that was written: its size or its SHA-256 differs")
    file.seek(0)
    check_counts(
        find_format(manifest.file.format).count(file), Counter({r.collection: r.documents_written for r in reports})
    )


def check_counts(found: Counter[str], expected: Counter[str]) -> None:
    """Raise IncompleteError that names the collections whose count differs; a missing one counts as zero."""
    if found != expected:
        differing = sorted(name for name in found | expected if found[name] != expected[name])
        raise IncompleteError(f"the file read back holds other counts than were written, in {', '.join(differing)}")
