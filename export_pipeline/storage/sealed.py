"""A storage whose files are sealed: whoever holds the disk but not the identity reads nothing of them.

Meant for what lies between a database and an encrypted package. Keys and sizes stay to be seen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import BinaryIO

from export_pipeline.encryption.age import AgeWriter, Identity, open_age
from export_pipeline.storage.protocol import PendingFile, Storage, checked_key


class SealedStorage:
    """The files of ``storage``, each a file of age for ``identity`` alone; what is written and read here is plain.

    Opening raises WrongKeyError for a file of another identity, and IncompleteError for one that is not what was
    written, as does reading it.
    """

    def __init__(self, storage: Storage, identity: Identity) -> None:
        self._storage = storage
        self._identity = identity

    @contextmanager
    def create(self, key: str) -> Iterator[PendingFile]:
        """See ``Storage.create``."""
        with self._storage.create(key) as file:
            yield _PendingSealed(file, self._identity, self.locate(key))

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """See ``Storage.open``."""
        with (
            self._storage.open(key) as file,
            open_age(file, identities=[self._identity], name=self.locate(key)) as plain,
        ):
            yield plain

    def exists(self, key: str) -> bool:
        """See ``Storage.exists``."""
        return self._storage.exists(key)

    def delete(self, prefix: str) -> None:
        """See ``Storage.delete``."""
        self._storage.delete(prefix)

    def folders(self, prefix: str) -> list[str]:
        """See ``Storage.folders``."""
        return self._storage.folders(prefix)

    def locate(self, key: str) -> str:
        """See ``Storage.locate``; other programs find a sealed file there."""
        return self._storage.locate(key)

    def link(self, key: str, expires: timedelta, filename: str, content_type: str) -> None:  # noqa: ARG002
        """See ``Storage.link``: there is none, since a browser would save what nobody can open."""
        checked_key(key)

    def sweep(self, older_than: timedelta) -> list[str]:
        """See ``Storage.sweep``."""
        return self._storage.sweep(older_than)


class _PendingSealed:
    def __init__(self, file: PendingFile, identity: Identity, name: str) -> None:
        self._file = file
        self._age = AgeWriter(file, recipients=[identity.recipient])
        self._name = name
        self.write = self._age.write
        self.tell = self._age.tell

    @contextmanager
    def read_back(self) -> Iterator[BinaryIO]:
        # First to its end: some storages take nothing more once they were read back, and only a whole file is proven.
        self._age.close()
        with (
            self._file.read_back() as file,
            open_age(file, file_key=self._age.file_key, name=self._name) as plain,
        ):
            yield plain

    def commit(self) -> None:
        self._age.close()
        self._file.commit()
