"""A sealed storage is a storage like any other, and its disk tells nothing."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO
from unittest.mock import Mock

import pyrage
import pytest

from export_pipeline.encryption.age import WrongKeyError, new_identity
from export_pipeline.errors import BadInputError, IncompleteError, StorageError
from export_pipeline.storage import DirectoryStorage, PendingFile, Storage
from export_pipeline.storage.sealed import SealedStorage

CHUNK = 64 << 10
PLAIN = b"".join(b'{"uid":"1a2","n":%d}\n' % number for number in range(10_000))
IDENTITY = new_identity()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "exports"


@pytest.fixture
def storage(root: Path) -> Storage:
    return SealedStorage(DirectoryStorage(root), IDENTITY)


def store(storage: Storage, key: str, data: bytes) -> None:
    with storage.create(key) as file:
        file.write(data)
        file.commit()


def load(storage: Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_committed_file_can_be_read_and_is_a_file_of_age(storage: Storage, root: Path, size: int) -> None:
    store(storage, "slices/b/crash_users.bson", PLAIN[:size])
    assert load(storage, "slices/b/crash_users.bson") == PLAIN[:size]
    sealed = (root / "slices/b/crash_users.bson").read_bytes()
    assert pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(IDENTITY.secret)]) == PLAIN[:size]


def test_nothing_plain_is_on_the_disk_at_any_time(storage: Storage, root: Path) -> None:
    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in files_below(root))

    with storage.create("a/b") as file:
        for start in range(0, len(PLAIN), 1000):
            file.write(PLAIN[start : start + 1000])
        with file.read_back() as written:
            assert written.read() == PLAIN
            assert len(on_disk()) > len(PLAIN) // 2
            assert b"uid" not in on_disk()
        file.commit()
    assert len(on_disk()) > len(PLAIN)
    assert b"uid" not in on_disk()
    assert IDENTITY.secret.encode() not in on_disk()


def test_places_are_those_of_the_plain_bytes(storage: Storage) -> None:
    with storage.create("a/b") as file:
        assert (file.tell(), file.write(PLAIN), file.tell()) == (0, len(PLAIN), len(PLAIN))
        file.commit()
    with storage.open("a/b") as reader:
        assert reader.seekable()
        assert reader.seek(0, io.SEEK_END) == len(PLAIN)
        assert reader.seek(CHUNK - 5) == CHUNK - 5
        assert reader.read(10) == PLAIN[CHUNK - 5 : CHUNK + 5]
        assert reader.tell() == CHUNK + 5
        assert reader.seek(-7, io.SEEK_END) == len(PLAIN) - 7
        assert reader.read() == PLAIN[-7:]


def test_what_has_been_written_can_be_read_back_before_the_commit(storage: Storage) -> None:
    with storage.create("a/b") as file:
        file.write(PLAIN)
        for _ in range(2):
            with file.read_back() as written:
                assert written.read() == PLAIN
                assert written.seek(CHUNK - 5) == CHUNK - 5
                assert written.read(10) == PLAIN[CHUNK - 5 : CHUNK + 5]
        with pytest.raises(ValueError, match="closed"):
            file.write(b"more")
        assert file.tell() == len(PLAIN)
        file.commit()
    assert load(storage, "a/b") == PLAIN


class FinalReadBack(DirectoryStorage):
    """As S3 is: once a file was read back, it takes nothing more."""

    @contextmanager
    def create(self, key: str) -> Iterator[PendingFile]:
        with super().create(key) as file:
            final = Mock(wraps=file)

            @contextmanager
            def read_back() -> Iterator[BinaryIO]:
                final.write.side_effect = AssertionError("written after it was read back")
                with file.read_back() as written:
                    yield written

            final.read_back = read_back
            yield final


def test_nothing_is_written_after_reading_back(root: Path) -> None:
    storage = SealedStorage(FinalReadBack(root), IDENTITY)
    with storage.create("a/b") as file:
        file.write(PLAIN)
        with file.read_back() as written:
            assert written.read() == PLAIN
        file.commit()
    assert load(storage, "a/b") == PLAIN


def test_reading_back_notices_what_happened_on_the_disk(storage: Storage, root: Path) -> None:
    with storage.create("a/b") as file:
        file.write(PLAIN)
        with file.read_back():
            pass
        [aside] = files_below(root)
        aside.write_bytes(aside.read_bytes().replace(b"X25519", b"X25518"))
        with pytest.raises(IncompleteError, match=f"^{root}/a/b: its header does not belong"), file.read_back():
            pass


def test_nothing_is_to_be_seen_before_the_commit_and_nothing_is_left_without(storage: Storage, root: Path) -> None:
    with storage.create("a/b") as file:
        file.write(PLAIN)
        assert not storage.exists("a/b")
    assert not storage.exists("a/b")
    assert files_below(root) == []


def test_files_are_found_and_deleted_as_before(storage: Storage, root: Path) -> None:
    store(storage, "slices/one/a", b"x")
    store(storage, "slices/two/a", b"x")
    assert storage.link("slices/one/a", timedelta(1), "me.json", "application/json") is None
    assert storage.exists("slices/one/a")
    assert storage.locate("slices/one/a") == f"{root}/slices/one/a"
    storage.delete("slices/one")
    assert files_below(root) == [root / "slices/two/a"]


def test_what_a_crash_left_is_swept(storage: Storage, root: Path) -> None:
    with storage.create("a/b"):
        [left] = [path.relative_to(root).as_posix() for path in files_below(root)]
        assert storage.sweep(timedelta(1)) == []
        assert storage.sweep(-timedelta(1)) == [left]


def test_another_identity_reads_nothing_and_is_told_which_file(storage: Storage, root: Path) -> None:
    store(storage, "a/b", PLAIN)
    other = SealedStorage(DirectoryStorage(root), new_identity())
    with pytest.raises(WrongKeyError, match=f"^{root}/a/b: none of the identities given opens it"), other.open("a/b"):
        pass


def test_a_plain_file_is_not_taken_for_a_sealed_one(storage: Storage, root: Path) -> None:
    store(DirectoryStorage(root), "a/b", PLAIN)
    with pytest.raises(IncompleteError, match=f"^{root}/a/b: it is not a file of age"), storage.open("a/b"):
        pass


def test_damage_is_noticed_and_the_file_named(storage: Storage, root: Path) -> None:
    store(storage, "a/b", PLAIN)
    sealed = bytearray((root / "a/b").read_bytes())
    sealed[1000] ^= 1
    (root / "a/b").write_bytes(sealed)
    with pytest.raises(IncompleteError, match=f"^{root}/a/b: it was changed"):
        load(storage, "a/b")
    (root / "a/b").write_bytes(sealed[:-CHUNK])
    with pytest.raises(IncompleteError, match=f"^{root}/a/b: its end is not"):
        load(storage, "a/b")


def test_the_errors_of_the_storage_below_pass_through(storage: Storage, root: Path) -> None:
    with pytest.raises(StorageError, match=f"^{root}/a/b: no such file"), storage.open("a/b"):
        pass
    with pytest.raises(BadInputError, match="not a plain name"), storage.create("../b"):
        pass
