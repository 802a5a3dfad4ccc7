"""Checking a backup by reading it back, without the database: every part there, the one that was written, and no other.

The inside of encrypted parts is checked where there is a key; what is stored, always.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import ValidationError

from export_pipeline.backups.content import content_sha256
from export_pipeline.backups.manifest import BackedUpCollection, BackupManifest, PartFile, totals_of
from export_pipeline.backups.parts import open_content, part_format, part_name
from export_pipeline.backups.planning import LANES
from export_pipeline.errors import BadInputError, ExportPipelineError, IncompleteError, StorageError
from export_pipeline.packages.hashing import sha256_of
from export_pipeline.packages.layers import NO_KEYS, Keys
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.storage import Storage


@dataclass(frozen=True, slots=True)
class Verified:
    """A backup that is whole."""

    manifest: BackupManifest
    looked_inside: bool
    """Whether the parts were opened, and their documents counted."""


def load_manifest(storage: Storage, folder: str) -> BackupManifest:
    """Return a backup's manifest. Raises BadInputError where there is none, IncompleteError for one that is damaged."""
    if not storage.exists(f"{folder}/{MANIFEST}"):
        raise BadInputError(f"{storage.locate(folder)}: there is no {MANIFEST}, so it is no backup, or not a whole one")
    with storage.open(f"{folder}/{MANIFEST}") as file:
        try:
            return BackupManifest.model_validate_json(file.read())
        except ValidationError:
            raise IncompleteError(f"{MANIFEST}: it is damaged, or of another version of this software") from None


def verify_backup(
    storage: Storage, folder: str, keys: Keys = NO_KEYS, on_part: Callable[[], None] = lambda: None
) -> Verified:
    """Check the backup in ``folder``; ``on_part`` is called after each part.

    Raises IncompleteError that names the part or the collection, WrongKeyError where the keys do not open a part.
    """
    manifest = load_manifest(storage, folder)
    _check_figures(manifest)
    look_inside = bool(keys) or not manifest.options.recipients
    beside = folder.rpartition("/")[0]
    parts = [(collection, part) for collection in manifest.collections for part in collection.parts]

    def check(task: tuple[BackedUpCollection, PartFile]) -> None:
        collection, part = task
        key = f"{beside}/{part.backup_id or manifest.backup_id}/{collection.folder}/{part.name}"
        with naming(f"{collection.folder}/{part.name}"):
            _check_part(storage, key.lstrip("/"), manifest, part, keys if look_inside else None)
        on_part()

    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(check, parts))
    _check_nothing_else(storage, folder, manifest)
    return Verified(manifest, look_inside)


def _check_figures(manifest: BackupManifest) -> None:
    """Check that the manifest agrees with itself."""
    for collection in manifest.collections:
        named = f"{collection.database}.{collection.name}"
        if collection.fingerprint != collection.structure.fingerprint:
            raise IncompleteError(f"{MANIFEST}: the structure of {named} is not the one that its fingerprint is of")
        written = sum(part.documents for part in collection.parts)
        if written != collection.documents_written or collection.documents_expected not in (None, written):
            raise IncompleteError(f"{MANIFEST}: the documents of {named} are not those of its parts")
        if collection.content_sha256 != content_sha256(collection.order, collection.parts):
            raise IncompleteError(f"{MANIFEST}: the content of {named} is not that of its parts")
    if manifest.totals != totals_of(manifest.collections):
        raise IncompleteError(f"{MANIFEST}: the totals are not the sum of the collections")


def _check_part(storage: Storage, key: str, manifest: BackupManifest, part: PartFile, keys: Keys | None) -> None:
    if not storage.exists(key):
        raise IncompleteError("the part is missing")
    with storage.open(key) as file:
        if sha256_of(file) != part.file_sha256:
            size = file.seek(0, 2)
            differs = f"it has {size:,} bytes and not {part.file_bytes:,}" if size != part.file_bytes else "its SHA-256"
            raise IncompleteError(f"the part is damaged, or it is another one ({differs})")
    if keys is None:
        return
    options = manifest.options
    if part.file_sha256 != part.plain_sha256:  # else its content is what was just read
        with storage.open(key) as file:
            if sha256_of(open_content(file, options, keys)) != part.plain_sha256:
                raise IncompleteError("the part's content is not what was written")
    with storage.open(key) as file:
        if part_format(options.format).count(open_content(file, options, keys)) != part.documents:
            raise IncompleteError("the part holds another number of documents")


def _check_nothing_else(storage: Storage, folder: str, manifest: BackupManifest) -> None:
    """Check that there are no files where more parts would be: a restore by hand would take them in."""
    folders = {collection.folder for collection in manifest.collections}
    for surplus in set(storage.folders(folder)) - folders:
        raise IncompleteError(f"{surplus}: the folder is of no collection of this backup")
    for collection in manifest.collections:
        own = {part.name for part in collection.parts if part.backup_id is None}
        for name in _next_names(collection, manifest):
            if name not in own and storage.exists(f"{folder}/{collection.folder}/{name}"):
                raise IncompleteError(f"{collection.folder}/{name}: the part is none of this backup's")


def _next_names(collection: BackedUpCollection, manifest: BackupManifest) -> Iterator[str]:
    """Yield what parts are called that a writer would have made: of each number up to one more than there are."""
    numbers = Counter(int(part.name[len("part-") :].partition(".")[0].partition("-")[0]) for part in collection.parts)
    for number in range(max(numbers, default=-1) + 2):
        for cut in range(numbers[number] + 1):
            yield part_name(f"part-{number:05}", cut, manifest.options)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Name the part in what checking it raises."""
    try:
        yield
    except StorageError:
        raise  # it names the file
    except ExportPipelineError as error:
        raise type(error)(f"{where}: {error}") from None
    except (OSError, EOFError, ValueError) as error:
        raise IncompleteError(f"{where}: the part cannot be read to its end ({type(error).__name__})") from None
