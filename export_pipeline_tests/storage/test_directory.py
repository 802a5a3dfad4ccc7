"""What a directory adds to what holds for any storage (``test_storage``): modes, links, what goes wrong on a disk."""

import resource
import signal
import stat
import tempfile
from datetime import timedelta
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


def test_who_has_the_old_file_open_still_reads_it_to_its_end(storage: Storage, root: Path) -> None:
    store(storage, "a/b", b"a long first version")
    with storage.open("a/b") as old:
        store(storage, "a/b", b"short")
        assert old.read() == b"a long first version"
    assert load(storage, "a/b") == b"short"
    assert files_below(root) == [root / "a/b"]


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


def test_delete_of_a_link_does_not_follow_it(storage: Storage, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("keep")
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    storage.delete("link")
    assert (tmp_path / "outside").exists()
    assert files_below(root) == []


# Keys that climb


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


def test_sweeping_what_is_no_folder_says_where_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"^{tmp_path}/file: not a directory"):
        DirectoryStorage(tmp_path / "file").sweep(timedelta(0))


# Choosing a storage


def test_a_directory_is_opened_without_touching_it(tmp_path: Path) -> None:
    assert open_storage(str(tmp_path / "new")).locate("a") == f"{tmp_path}/new/a"
    assert not (tmp_path / "new").exists()


def test_a_directory_has_no_links(storage: Storage) -> None:
    assert storage.link("a/b", timedelta(hours=1), "me.json", "application/json") is None
