"""A file in the storage is whole or it is not there, and it is nowhere but below the root."""

import io
import resource
import signal
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from export_pipeline.errors import BadInputError, StorageError
from export_pipeline.storage import DirectoryStorage, Storage, create_file, open_storage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "exports"


@pytest.fixture
def storage(root: Path) -> Storage:
    return DirectoryStorage(root)


def store(storage: Storage, key: str, data: bytes) -> None:
    with storage.create(key) as file:
        file.write(data)
        file.commit()


def load(storage: Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


# Whole or not there


def test_a_committed_file_can_be_read(storage: Storage, root: Path) -> None:
    store(storage, "exports/app/request/export.json", b"[\n]\n")
    assert storage.exists("exports/app/request/export.json")
    assert load(storage, "exports/app/request/export.json") == b"[\n]\n"
    assert storage.locate("exports/app/request/export.json") == f"{root}/exports/app/request/export.json"
    assert files_below(root) == [root / "exports/app/request/export.json"]


def test_nothing_is_to_be_seen_before_the_commit(storage: Storage) -> None:
    with storage.create("a/b") as file:
        file.write(b"half")
        assert not storage.exists("a/b")
        with pytest.raises(StorageError), storage.open("a/b"):
            pass
        file.commit()
        assert storage.exists("a/b")


def test_nothing_is_left_without_a_commit(storage: Storage, root: Path) -> None:
    with storage.create("a/b") as file:
        file.write(b"half")
    assert not storage.exists("a/b")
    assert files_below(root) == []


def test_nothing_is_left_after_an_error(storage: Storage, root: Path) -> None:
    def interrupted() -> None:
        with storage.create("a/b") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files_below(root) == []


def test_a_new_file_replaces_the_old_one_whole(storage: Storage, root: Path) -> None:
    store(storage, "a/b", b"a long first version")
    with storage.open("a/b") as old:
        store(storage, "a/b", b"short")
        assert old.read() == b"a long first version", "who has the old file open still reads it to its end"
    assert load(storage, "a/b") == b"short"
    assert files_below(root) == [root / "a/b"]


def test_a_failed_attempt_leaves_the_old_file(storage: Storage) -> None:
    store(storage, "a/b", b"first")
    with storage.create("a/b") as file:
        file.write(b"second")
    assert load(storage, "a/b") == b"first"


def test_two_attempts_at_once_do_not_mix(storage: Storage, root: Path) -> None:
    with storage.create("a/b") as one, storage.create("a/b") as other:
        one.write(b"one")
        other.write(b"other")
        other.commit()
        one.commit()
    assert load(storage, "a/b") == b"one"
    assert files_below(root) == [root / "a/b"]


def test_what_has_been_written_can_be_read_back_before_the_commit(storage: Storage) -> None:
    with storage.create("a/b") as file:
        assert (file.write(b"12345"), file.tell()) == (5, 5)
        with file.read_back() as written:
            assert written.read() == b"12345"
            assert written.seek(1, io.SEEK_SET) == 1
            assert written.read(2) == b"23"
        file.write(b"6")
        assert file.tell() == 6
        file.commit()
    assert load(storage, "a/b") == b"123456"


def test_only_the_owner_may_read(storage: Storage, root: Path) -> None:
    store(storage, "a/b", b"personal")
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o700
    with storage.create("a/c"):
        assert [stat.S_IMODE(path.stat().st_mode) for path in files_below(root)] == [0o600, 0o600]


def test_create_file_writes_anywhere_in_the_same_way(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "me.json"
    with create_file(target) as file:
        file.write(b"[]")
        assert not target.exists()
        file.commit()
    assert target.read_bytes() == b"[]"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


# Deleting


def test_delete_removes_a_file_or_a_folder(storage: Storage, root: Path) -> None:
    for key in ("slices/one/a", "slices/one/b", "slices/two/a"):
        store(storage, key, b"x")
    storage.delete("slices/one")
    assert files_below(root) == [root / "slices/two/a"]
    storage.delete("slices/two/a")
    assert files_below(root) == []


def test_delete_of_what_is_not_there_is_no_error(storage: Storage) -> None:
    storage.delete("slices/none")
    store(storage, "slices/one/a", b"x")
    storage.delete("slices/one")
    storage.delete("slices/one")
    storage.delete("slices/one/a")


def test_delete_of_a_link_does_not_follow_it(storage: Storage, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("keep")
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    storage.delete("link")
    assert (tmp_path / "outside").exists()
    assert files_below(root) == []


# Keys that climb


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", ".", "..", "../x", "a/../x", "a/..", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "a\\b"),
        *("..\\x", "a\0b", "a b", "a\n", ".hidden", "a/.hidden", "ü", "~", "C:/x", "$HOME", "a" * 201),
    ],
)
def test_keys_that_are_not_plain_are_refused(storage: Storage, root: Path, key: str) -> None:
    for use in (storage.exists, storage.delete, storage.locate):
        with pytest.raises(BadInputError, match="not a plain name"):
            use(key)
    with pytest.raises(BadInputError), storage.create(key):
        pass
    with pytest.raises(BadInputError), storage.open(key):
        pass
    assert not root.exists()


SEGMENTS = st.sampled_from(["..", ".", "", "a", "...", "a..b", "..a", "\\", "\0", " ", "~", "-", "_"]) | st.text(
    max_size=3
)


@given(st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join))
@example("a..b/-/_")
def test_whatever_the_key_is_the_file_lies_below_the_root(key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        storage = DirectoryStorage(root)
        try:
            with storage.create(key) as file:
                file.commit()
        except BadInputError:
            assert files_below(Path(folder)) == []
        else:
            [path] = files_below(Path(folder))
            assert path == root / key
            assert ".." not in path.parts


@pytest.mark.parametrize(
    "key", ["exports/app_1/0192f7-a/export.json", "slices/x/drill_events.bson", "backups/b/c{app_id}/part-0.gz"]
)
def test_the_keys_that_the_project_makes_are_plain(storage: Storage, key: str) -> None:
    store(storage, key, b"x")
    assert storage.exists(key)


# What goes wrong on the disk


def test_a_folder_that_cannot_be_made_says_where_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match=rf"^{tmp_path}/file/x/y: not a directory; check EXPORT_PIPELINE_STORAGE"),
        DirectoryStorage(tmp_path / "file").create("x/y"),
    ):
        pass


def test_a_place_that_takes_no_files_says_where_and_why() -> None:
    with pytest.raises(StorageError, match=r"^/proc/self/x: .*; check EXPORT_PIPELINE_STORAGE"):
        store(DirectoryStorage("/proc/self"), "x", b"data")


def test_a_full_disk_says_where_and_why_and_leaves_nothing(tmp_path: Path, root: Path) -> None:
    storage = DirectoryStorage(root)
    store(storage, "a", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match=f"^{root}/a: file too large"):
            store(storage, "a", b"x" * 3_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert load(storage, "a") == b"before"
    assert files_below(root) == [root / "a"]


def test_a_folder_in_the_place_of_the_file_is_an_error(storage: Storage, root: Path) -> None:
    (root / "a").mkdir(parents=True)
    assert not storage.exists("a")
    with pytest.raises(StorageError, match="is a directory"):
        store(storage, "a", b"x")
    assert files_below(root) == []


def test_a_file_that_is_not_there_says_which(storage: Storage, root: Path) -> None:
    with pytest.raises(StorageError, match=f"^{root}/a/b: no such file or directory"), storage.open("a/b"):
        pass


# Choosing a storage


def test_a_directory_is_opened_without_touching_it(tmp_path: Path) -> None:
    assert open_storage(str(tmp_path / "new")).locate("a") == f"{tmp_path}/new/a"
    assert not (tmp_path / "new").exists()


def test_an_unknown_kind_of_storage_is_refused() -> None:
    with pytest.raises(BadInputError, match="EXPORT_PIPELINE_STORAGE: no storage of the kind 'ftp'"):
        open_storage("ftp://host/prefix")
