"""The backup that is read: where it lies, its manifest, and its parts' documents, each checked against it.

A backup is named by its id, or by the folder or URL that it was copied to. Parts that it shares with earlier backups
lie in those, beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from export_pipeline.backups.manifest import LOSSLESS, BackedUpCollection, PartFile
from export_pipeline.backups.parts import open_content, part_format
from export_pipeline.backups.removal import backup_folder, storage_of
from export_pipeline.backups.seal import manifest_sha256
from export_pipeline.backups.verify import load_manifest, verify_backup
from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.installation import Installation
from export_pipeline.mongo.bson_stream import Piece
from export_pipeline.packages.layers import Keys
from export_pipeline.packages.naming import MANIFEST
from export_pipeline.requests.rows import may_be_id
from export_pipeline.storage import Storage, open_storage


class BackupRefusedError(BadInputError):
    """The backup cannot be restored as it is; nothing was written. The message names the part or the collection."""

    code = "backup_refused"


@dataclass(frozen=True, slots=True)
class BackupFolder:
    """Where a backup lies: in a folder of the storage, beside the other backups of its app."""

    storage: Storage
    beside: str
    """The folder of all of them, with a slash at its end, or empty."""
    name: str

    @property
    def path(self) -> str:
        """The backup's folder."""
        return f"{self.beside}{self.name}"


def find_backup(installation: Installation, named: str) -> BackupFolder:
    """Return where a backup lies. Raises BadInputError where there is none."""
    if not named.startswith("s3://") and "/" not in named and not Path(named).is_dir():
        return _find_by_id(installation, named)
    root, beside, name = _cut(named if named.startswith("s3://") else str(Path(named).absolute()))
    settings = installation.settings
    storage = open_storage(root, endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
    found = BackupFolder(storage, beside, name)
    if not storage.exists(f"{found.path}/{MANIFEST}"):
        raise BadInputError(f"{named}: there is no {MANIFEST} in this folder, so it is no backup, or not a whole one")
    return found


def _cut(place: str) -> tuple[str, str, str]:
    """Return the root of the storage, the folder beside it and the backup's name; the ledger lies at the root.

    >>> _cut("/copied/backups/app/0190"), _cut("s3://bucket/0190/")
    (('/copied', 'backups/app/', '0190'), ('s3://bucket', '', '0190'))
    """
    parent, _, name = place.rstrip("/").rpartition("/")
    above, _, app = parent.rpartition("/")
    root, _, backups = above.rpartition("/")
    return (root, f"backups/{app}/", name) if backups == "backups" else (parent, "", name)


def _find_by_id(installation: Installation, backup_id: str) -> BackupFolder:
    if not may_be_id(backup_id) or "/" in backup_id:
        raise BadInputError("no backup has this id; name the folder that it is in, if it was copied")
    request = installation.requests.known([backup_id]).get(backup_id)
    if request is not None:
        storage = storage_of(installation, request)
        beside = backup_folder(request).removesuffix(backup_id)
        if storage.exists(f"{beside}{backup_id}/{MANIFEST}"):
            return BackupFolder(storage, beside, backup_id)
    storage = installation.storage  # of another installation's backups, no request tells
    for app in storage.folders("backups"):
        if storage.exists(f"backups/{app}/{backup_id}/{MANIFEST}"):
            return BackupFolder(storage, f"backups/{app}/", backup_id)
    raise BadInputError(f"no whole backup {backup_id} is in the storage; name the folder that it is in")


class BackupSource:
    """A backup, open for reading."""

    def __init__(self, folder: BackupFolder, keys: Keys) -> None:
        """Read the manifest. Raises IncompleteError for one that is damaged or of another version."""
        self.folder = folder
        self.manifest = load_manifest(folder.storage, folder.path)
        with folder.storage.open(f"{folder.path}/{MANIFEST}") as file:
            self.manifest_sha256 = manifest_sha256(file.read())
        self._options = self.manifest.options
        self._format = part_format(self._options.format)
        self._keys = keys
        if self._options.format not in LOSSLESS:
            raise BackupRefusedError(
                f"the backup's format, {self._options.format}, does not keep the documents as they were; only one of "
                f"{', '.join(sorted(LOSSLESS))} can be restored"
            )
        if self._options.recipients and not keys:
            raise BackupRefusedError("the backup is encrypted: name the file with your identity, --identity FILE")
        if folder.name != self.manifest.backup_id:
            raise BackupRefusedError(f"the backup's folder is to be called {self.manifest.backup_id}, by its id")

    def check(self) -> None:
        """Read every part. Raises IncompleteError or WrongKeyError that names the part; see ``verify_backup``."""
        verify_backup(self.folder.storage, self.folder.path, self._keys)

    def pieces(self, collection: BackedUpCollection, part: PartFile) -> Iterator[Piece]:
        """Yield a part's documents. Raises IncompleteError for what cannot be read."""
        held_by = f"{self.folder.beside}{part.backup_id or self.folder.name}"
        try:
            with self.folder.storage.open(f"{held_by}/{collection.folder}/{part.name}") as file:
                yield from self._format.pieces(open_content(file, self._options, self._keys))
        except (OSError, EOFError, ValueError) as error:
            raise IncompleteError(
                f"{collection.folder}/{part.name}: the part cannot be read to its end ({type(error).__name__})"
            ) from None
