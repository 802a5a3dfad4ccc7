"""What holds for any storage: a file is whole or it is not there, and it is nowhere but below the root."""

import io
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from export_pipeline.errors import BadInputError, StorageError
from export_pipeline.storage import DirectoryStorage, S3Storage, Storage, open_storage
from export_pipeline.storage.s3_upload import Limits

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytest_plugins = "export_pipeline_tests.s3_server"

BUCKET = "exports"


@dataclass
class Kind:
    """A storage, and what shows all that lies below its root, whatever it is."""

    storage: Storage
    root: str
    everything: Callable[[], list[str]]


@pytest.fixture(params=["directory", "s3", "s3 in parts"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "directory":
        root = tmp_path / "exports"

        def files() -> list[str]:
            return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())

        return Kind(DirectoryStorage(root), str(root), files)
    client: S3Client = request.getfixturevalue("shared_s3_client")
    prefix = f"storage/{uuid4().hex}"
    # With parts of a byte, whatever is written goes through a multipart upload.
    limits = Limits(part=1 if request.param == "s3 in parts" else 8 << 20)

    def objects_and_uploads() -> list[str]:
        objects = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
        names = [found["Key"] for found in objects]
        with suppress(client.exceptions.NoSuchUpload):  # which is what rclone says where there never was one
            uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{prefix}/").get("Uploads", [])
            names += [upload["Key"] for upload in uploads]
        return sorted(name.removeprefix(f"{prefix}/") for name in names)

    return Kind(S3Storage(client, BUCKET, prefix, limits=limits), f"s3://{BUCKET}/{prefix}", objects_and_uploads)


@pytest.fixture
def storage(kind: Kind) -> Storage:
    return kind.storage


def store(storage: Storage, key: str, data: bytes) -> None:
    with storage.create(key) as file:
        file.write(data)
        file.commit()


def load(storage: Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


# Whole or not there


def test_a_committed_file_can_be_read(storage: Storage, kind: Kind) -> None:
    store(storage, "exports/app/request/export.json", b"[\n]\n")
    assert storage.exists("exports/app/request/export.json")
    assert load(storage, "exports/app/request/export.json") == b"[\n]\n"
    assert storage.locate("exports/app/request/export.json") == f"{kind.root}/exports/app/request/export.json"
    assert kind.everything() == ["exports/app/request/export.json"]


def test_an_empty_file_is_a_file(storage: Storage, kind: Kind) -> None:
    with storage.create("a/empty") as file:
        with file.read_back() as written:
            assert written.read() == b""
        file.commit()
    store(storage, "a/empty-too", b"")
    assert (load(storage, "a/empty"), load(storage, "a/empty-too")) == (b"", b"")
    assert kind.everything() == ["a/empty", "a/empty-too"]


def test_nothing_is_to_be_seen_before_the_commit(storage: Storage) -> None:
    with storage.create("a/b") as file:
        file.write(b"half")
        assert not storage.exists("a/b")
        with pytest.raises(StorageError), storage.open("a/b"):
            pass
        with file.read_back() as written:
            assert written.read() == b"half"
        assert not storage.exists("a/b"), "nor while it is being verified"
        file.commit()
        assert storage.exists("a/b")


@pytest.mark.parametrize("verified", [False, True])
def test_nothing_is_left_without_a_commit(storage: Storage, kind: Kind, verified: bool) -> None:
    with storage.create("a/b") as file:
        file.write(b"half")
        if verified:
            with file.read_back():
                pass
    assert not storage.exists("a/b")
    assert kind.everything() == []


def test_nothing_is_left_after_an_error(storage: Storage, kind: Kind) -> None:
    def interrupted() -> None:
        with storage.create("a/b") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert kind.everything() == []


def test_a_new_file_replaces_the_old_one_whole(storage: Storage, kind: Kind) -> None:
    store(storage, "a/b", b"a long first version")
    store(storage, "a/b", b"short")
    assert load(storage, "a/b") == b"short"
    assert kind.everything() == ["a/b"]


def test_a_failed_attempt_leaves_the_old_file(storage: Storage) -> None:
    store(storage, "a/b", b"first")
    with storage.create("a/b") as file:
        file.write(b"second")
        with file.read_back():
            pass
    assert load(storage, "a/b") == b"first"


def test_two_attempts_at_once_do_not_mix(storage: Storage, kind: Kind) -> None:
    with storage.create("a/b") as one, storage.create("a/b") as other:
        one.write(b"one")
        other.write(b"other")
        other.commit()
        one.commit()
    assert load(storage, "a/b") == b"one"
    assert kind.everything() == ["a/b"]


def test_what_was_written_can_be_read_back_before_the_commit(storage: Storage) -> None:
    with storage.create("a/b") as file:
        assert (file.write(b"12345"), file.tell()) == (5, 5)
        assert (file.write(b"6"), file.tell()) == (1, 6)
        for _ in range(2):
            with file.read_back() as written:
                assert written.read() == b"123456"
                assert written.seek(1, io.SEEK_SET) == 1
                assert written.read(2) == b"23"
        file.commit()
    assert load(storage, "a/b") == b"123456"


@pytest.mark.parametrize(
    "key", ["exports/app_1/0192f7-a/export.json", "slices/x/drill_events.bson", "backups/b/c{app_id}/part-0.gz"]
)
def test_the_keys_that_the_project_makes_are_plain(storage: Storage, key: str) -> None:
    store(storage, key, b"x")
    assert storage.exists(key)
    assert load(storage, key) == b"x"


# Reading


def test_a_file_can_be_read_from_any_place(storage: Storage) -> None:
    data = random.Random(1).randbytes(300)
    store(storage, "a", data)
    with storage.open("a") as file:
        assert file.seekable()
        assert file.readable()
        assert (file.seek(-10, io.SEEK_END), file.read()) == (290, data[290:])
        assert (file.read(), file.read(1)) == (b"", b"")
        assert (file.seek(7), file.read(3), file.tell()) == (7, data[7:10], 10)
        assert (file.seek(-3, io.SEEK_CUR), file.read(1)) == (7, data[7:8])
        assert (file.seek(1000), file.read(5)) == (1000, b"")
        assert (file.seek(0), b"".join(file.readlines())) == (0, data)


def test_a_file_that_is_not_there_says_which(storage: Storage, kind: Kind) -> None:
    with pytest.raises(StorageError, match=f"^{kind.root}/a/b: no such file"), storage.open("a/b"):
        pass


# Deleting


def test_delete_removes_a_file_or_a_folder(storage: Storage, kind: Kind) -> None:
    for key in ("slices/one/a", "slices/one/b/c", "slices/two/a", "slices/one-more/a"):
        store(storage, key, b"x")
    storage.delete("slices/one")
    assert kind.everything() == ["slices/one-more/a", "slices/two/a"], "a name that begins alike is another name"
    storage.delete("slices/two/a")
    assert kind.everything() == ["slices/one-more/a"]


def test_delete_of_what_is_not_there_is_no_error(storage: Storage) -> None:
    storage.delete("slices/none")
    store(storage, "slices/one/a", b"x")
    storage.delete("slices/one")
    storage.delete("slices/one")
    storage.delete("slices/one/a")


# What a crash leaves


@pytest.fixture
def abandoned(storage: Storage) -> Iterator[None]:
    """Files of a writer that died, one while writing and one while verifying."""
    writing, verifying = storage.create("a/writing"), storage.create("a/verifying")
    half, whole = writing.__enter__(), verifying.__enter__()
    half.write(b"half")
    whole.write(b"whole")
    with whole.read_back():
        pass
    yield
    for context in (writing, verifying):
        context.__exit__(None, None, None)


def test_sweeping_removes_what_a_crash_left_and_nothing_else(storage: Storage, kind: Kind, abandoned: None) -> None:
    store(storage, "a/b", b"committed")
    store(storage, "a/b.partial", b"committed")
    left = set(kind.everything()) - {"a/b", "a/b.partial"}
    assert left
    assert storage.sweep(timedelta(hours=1)) == []
    assert left < set(kind.everything()), "young ones may still be written"
    time.sleep(2.1)  # the store's clock counts whole seconds
    assert set(storage.sweep(timedelta(seconds=1))) == left
    assert kind.everything() == ["a/b", "a/b.partial"]


def test_sweeping_where_nothing_was_stored_yet_is_no_error(storage: Storage) -> None:
    assert storage.sweep(timedelta(0)) == []


# Keys that climb


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", ".", "..", "../x", "a/../x", "a/..", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "a\\b"),
        *("..\\x", "a\0b", "a b", "a\n", ".hidden", "a/.hidden", "ü", "~", "C:/x", "$HOME", "a" * 201),
    ],
)
def test_keys_that_are_not_plain_are_refused(storage: Storage, kind: Kind, key: str) -> None:
    for use in (storage.exists, storage.delete, storage.locate):
        with pytest.raises(BadInputError, match="not a plain name"):
            use(key)
    with pytest.raises(BadInputError), storage.create(key):
        pass
    with pytest.raises(BadInputError), storage.open(key):
        pass
    with pytest.raises(BadInputError):
        storage.link(key, timedelta(hours=1), "me.json", "application/json")
    assert kind.everything() == []


# Choosing a storage


@pytest.mark.parametrize("root", ["ftp://host/prefix", "S3://bucket", "file:///tmp/x"])
def test_an_unknown_kind_of_storage_is_refused(root: str) -> None:
    with pytest.raises(BadInputError, match=f"EXPORT_PIPELINE_STORAGE: no storage of the kind '{root.split(':')[0]}'"):
        open_storage(root)
