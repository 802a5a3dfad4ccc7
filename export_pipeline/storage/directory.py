"""Storage in a directory: written aside, synced, then renamed."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from export_pipeline.errors import StorageError
from export_pipeline.storage.protocol import PendingFile, aside_name, checked_key, is_aside


@contextmanager
def create_file(target: Path) -> Iterator[PendingFile]:
    """Begin the file ``target``, readable by its owner alone; leaving without ``commit`` leaves nothing behind."""
    with _storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = target.with_name(aside_name(target.name))
        descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
            yield _PendingInDirectory(file, aside, target)
    except OSError as error:
        raise _explain(error, target) from error
    finally:
        aside.unlink(missing_ok=True)


class DirectoryStorage:
    """Files below one directory, which is made when the first file is written."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).absolute()

    def create(self, key: str) -> AbstractContextManager[PendingFile]:
        """See ``Storage.create``."""
        return create_file(self._path(key))

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """See ``Storage.open``."""
        path = self._path(key)
        with _storage_errors(path), path.open("rb") as file:
            yield file

    def exists(self, key: str) -> bool:
        """See ``Storage.exists``."""
        path = self._path(key)
        with _storage_errors(path):
            return path.is_file()

    def delete(self, prefix: str) -> None:
        """See ``Storage.delete``."""
        path = self._path(prefix)
        with _storage_errors(path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def folders(self, prefix: str) -> list[str]:
        """See ``Storage.folders``."""
        path = self._path(prefix)
        with _storage_errors(path):
            return sorted(below.name for below in path.iterdir() if below.is_dir()) if path.is_dir() else []

    def locate(self, key: str) -> str:
        """See ``Storage.locate``."""
        return str(self._path(key))

    def link(self, key: str, expires: timedelta, filename: str, content_type: str) -> None:  # noqa: ARG002
        """See ``Storage.link``: a directory has none."""
        checked_key(key)

    def sweep(self, older_than: timedelta) -> list[str]:
        """See ``Storage.sweep``; the age is that of the last write."""
        newest = time.time() - older_than.total_seconds()
        removed = []
        with _storage_errors(self._root):
            for folder, _, names in os.walk(self._root, onerror=_unless_gone):
                for path in (Path(folder, name) for name in names if is_aside(name)):
                    with suppress(FileNotFoundError):  # its writer was alive, and has just put it in its place
                        if path.lstat().st_mtime < newest:
                            path.unlink()
                            removed.append(path.relative_to(self._root).as_posix())
        return sorted(removed)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)


class _PendingInDirectory:
    def __init__(self, file: BinaryIO, aside: Path, target: Path) -> None:
        self._file = file
        self._aside = aside
        self._target = target
        self.write = file.write
        self.tell = file.tell

    @contextmanager
    def read_back(self) -> Iterator[BinaryIO]:
        self._file.flush()
        with self._aside.open("rb") as file:
            yield file

    def commit(self) -> None:
        with _storage_errors(self._target):  # here, since whoever commits may be another thread than who began
            self._file.flush()
            os.fsync(self._file.fileno())
            self._aside.rename(self._target)
            # The rename itself is only safe from a power cut once the folder is on disk too.
            folder = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain(error, path) from error


def _explain(error: OSError, path: Path) -> StorageError:
    reason = (error.strerror or type(error).__name__).lower()
    return StorageError(f"{path}: {reason}; check EXPORT_PIPELINE_STORAGE, its permissions and its free space")
