"""Checking a package by reading it back: what its files hold against what its manifest says. Needs no database."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from export_pipeline.errors import BadInputError, IncompleteError, StorageError
from export_pipeline.formats.registry import find_format, write_options
from export_pipeline.packages.hashing import CHUNK
from export_pipeline.packages.layers import NO_KEYS, Keys, is_encrypted, open_layers
from export_pipeline.packages.manifest import CollectionReport, Manifest, PartReport
from export_pipeline.packages.naming import MANIFEST, manifest_name, part_path, whole_name


def manifest_path(package: Path) -> Path:
    """Return where the manifest of a package in the file ``package`` goes."""
    return package.with_name(manifest_name(package.name))


def read_manifest(package: Path) -> Manifest:
    """Return the manifest beside a package. Raises BadInputError where there is none, or it is not one of ours."""
    beside = [path for path in (manifest_path(package), package.with_name(MANIFEST)) if path.exists()]
    if not beside:
        raise BadInputError(f"{package}: there is no manifest beside it ({manifest_path(package).name} or {MANIFEST})")
    try:
        return Manifest.model_validate_json(beside[0].read_bytes())
    except (ValidationError, OSError):
        raise BadInputError(f"{beside[0]}: this is not a manifest of an export") from None


def can_look_inside(manifest: Manifest, keys: Keys) -> bool:
    """Tell whether the inside of a package can be checked: it is not encrypted, or there is a key to try."""
    return bool(keys) or not is_encrypted(write_options(manifest.options))


def verify_package(package: Path, keys: Keys = NO_KEYS) -> Manifest:
    """Check a package against its manifest; return the manifest.

    ``package`` is the file, any part of it, or what it would be called had it not been split. The inside of an
    encrypted one stays unseen without ``keys``, see ``can_look_inside``. Raises IncompleteError that says what
    differs: the bytes of a file or of a collection, or a count; WrongKeyError where the keys do not open it.
    """
    package = package.with_name(whole_name(package.name))
    manifest = read_manifest(package)
    look_inside = can_look_inside(manifest, keys)
    try:
        _check_figures(manifest)
        if look_inside:
            _check_content(package, manifest, keys)
        _check_stored(package, manifest)
        if look_inside:
            _check_documents(package, manifest, keys)
    except OSError as error:
        raise StorageError(f"{error.filename or package}: {(error.strerror or 'cannot be read').lower()}") from None
    return manifest


@contextmanager
def open_part(package: Path, manifest: Manifest, number: int, keys: Keys = NO_KEYS) -> Iterator[BinaryIO]:
    """Open a part's content, plain. Raises IncompleteError for damage, WrongKeyError where no key fits."""
    with part_path(package, manifest, number).open("rb") as file:
        try:
            yield open_layers(file, find_format(manifest.file.format), write_options(manifest.options), keys)
        except OSError as error:
            if error.errno is not None:
                raise
            raise IncompleteError("the file does not unpack to its end") from None


def _check_figures(manifest: Manifest) -> None:
    """Check that the manifest agrees with itself."""
    reports = manifest.collections
    written = Counter({report.collection: report.documents_written for report in reports})
    if any(report.documents_written != report.documents_expected for report in reports):
        raise IncompleteError("the manifest itself says that fewer or more documents were written than expected")
    if (written.total(),) * 2 != (manifest.totals.documents_written, manifest.totals.documents_expected):
        raise IncompleteError("the manifest's totals are not the sum of its collections")
    in_parts: Counter[str] = Counter()
    for part in manifest.parts:
        in_parts.update(part.documents)
    if +in_parts != +written or sum(part.bytes for part in manifest.parts) != manifest.file.bytes:
        raise IncompleteError("the manifest's parts are not together what it says of the whole")


def _check_stored(package: Path, manifest: Manifest) -> None:
    whole = hashlib.sha256()
    for number, part in enumerate(manifest.parts):
        digest, size = hashlib.sha256(), 0
        with part_path(package, manifest, number).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                whole.update(chunk)
                size += len(chunk)
        if (size, digest.hexdigest()) != (part.bytes, part.sha256):
            raise IncompleteError(
                f"the file{_which(manifest, part)} is not the one that was written: its size or its SHA-256 differs"
            )
    if whole.hexdigest() != manifest.file.sha256:
        raise IncompleteError("the file is not the one that was written: the SHA-256 of all of it differs")


def _which(manifest: Manifest, part: PartReport) -> str:
    return f" {part.name}" if len(manifest.parts) > 1 else ""


def _check_content(package: Path, manifest: Manifest, keys: Keys) -> None:
    sections = _Sections(manifest.collections)
    found: list[tuple[int, str]] = []
    for number in range(len(manifest.parts)):
        begins = sections.position
        digest = hashlib.sha256()
        with open_part(package, manifest, number, keys) as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
                sections.update(chunk)
        found.append((sections.position - begins, digest.hexdigest()))
    sections.finish()  # first, since it names the collection
    for part, figures in zip(manifest.parts, found, strict=True):
        if figures != (part.content_bytes, part.content_sha256):
            raise IncompleteError(f"the content of the file{_which(manifest, part)} is not the one that was written")


class _Sections:
    """Hashes each collection's bytes as the content passes by, once."""

    def __init__(self, reports: Sequence[CollectionReport]) -> None:
        self._reports = reports
        self._digests = [hashlib.sha256() for _ in reports]
        self.position = 0

    def update(self, chunk: bytes) -> None:
        begins, ends = self.position, self.position + len(chunk)
        for report, digest in zip(self._reports, self._digests, strict=True):
            if report.offset < ends and begins < report.offset + report.bytes:
                digest.update(chunk[max(0, report.offset - begins) : report.offset + report.bytes - begins])
        self.position = ends

    def finish(self) -> None:
        for report, digest in zip(self._reports, self._digests, strict=True):
            lies_inside = 0 <= report.offset <= report.offset + report.bytes <= self.position
            if not lies_inside or digest.hexdigest() != report.sha256:
                raise IncompleteError(f"the bytes of {report.collection} are not those that were written")


def _check_documents(package: Path, manifest: Manifest, keys: Keys) -> None:
    format_ = find_format(manifest.file.format)
    for number, part in enumerate(manifest.parts):
        with open_part(package, manifest, number, keys) as content:
            check_counts(format_.count(content), Counter(part.documents))


def check_counts(found: Counter[str], expected: Counter[str]) -> None:
    """Raise IncompleteError that names the collections whose count differs; a missing one counts as zero."""
    if found != expected:
        differing = sorted(name for name in found | expected if found[name] != expected[name])
        raise IncompleteError(f"the file read back holds other counts than were written, in {', '.join(differing)}")
