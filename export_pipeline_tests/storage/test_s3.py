"""What S3 adds to what holds for any storage (``test_storage``): parts, links, encryption, and a network that fails."""

import io
import os
import random
import re
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from dagster_aws.s3 import S3Resource
from moto import mock_aws

from export_pipeline.errors import BadInputError, StorageError
from export_pipeline.storage import S3Storage, Storage, open_storage, s3_client
from export_pipeline.storage.s3 import encryption_parameters
from export_pipeline.storage.s3_multipart import part_size
from export_pipeline.storage.s3_upload import Limits

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from export_pipeline_tests.s3_server import CuttingProxy, S3Server

pytest_plugins = "export_pipeline_tests.s3_server"

BUCKET = "exports"
MB = 1 << 20
SOON = 20.0
"""Seconds after which a fault must have become an error, on a slow machine too."""


@pytest.fixture
def prefix() -> str:
    return f"s3/{uuid4().hex}"


@pytest.fixture
def storage(shared_s3_client: "S3Client", prefix: str) -> S3Storage:
    return S3Storage(shared_s3_client, BUCKET, prefix, limits=Limits(part=5 * MB))


def client_to(url: str, attempts: int = 2) -> "S3Client":
    """Make a client that gives up soon."""
    # Not above: pytest has to load the plugin first, so that it can explain its assertions.
    from export_pipeline_tests.s3_server import client_with_keys

    return client_with_keys(url, connect_timeout=1, read_timeout=2, attempts=attempts)


def store(storage: Storage, key: str, data: bytes) -> None:
    with storage.create(key) as file:
        file.write(data)
        file.commit()


def load(storage: Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


def some_bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)


@contextmanager
def calls_of(client: "S3Client") -> Iterator[list[tuple[str, dict[str, str]]]]:
    """Note each request that the client sends, as operation and headers."""
    calls: list[tuple[str, dict[str, str]]] = []

    def note(request: Any, event_name: str, **_: Any) -> None:
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        calls.append((event_name.rpartition(".")[2], headers))

    client.meta.events.register("before-send.s3", note)
    try:
        yield calls
    finally:
        client.meta.events.unregister("before-send.s3", note)


# Large files


def test_a_large_file_goes_up_in_parts_and_comes_back(storage: S3Storage, shared_s3_client: "S3Client") -> None:
    data = some_bytes(17 * MB + 5)
    with calls_of(shared_s3_client) as calls, storage.create("a/large") as file:
        for begin in range(0, len(data), 3 * MB + 1):
            file.write(data[begin : begin + 3 * MB + 1])
        assert file.tell() == len(data)
        with file.read_back() as written:
            assert written.read() == data
        file.commit()
    assert load(storage, "a/large") == data
    operations = Counter(operation for operation, _ in calls)
    assert operations["UploadPart"] == 4
    assert operations["CompleteMultipartUpload"] == operations["CopyObject"] == 1


def test_a_file_as_large_as_its_parts_has_no_empty_one(storage: S3Storage) -> None:
    store(storage, "a", some_bytes(10 * MB))
    assert load(storage, "a") == some_bytes(10 * MB)


def test_memory_is_bounded_by_the_parts_on_their_way(storage: S3Storage) -> None:
    piece = some_bytes(MB)
    tracemalloc.start()
    try:
        with storage.create("a") as file:
            for _ in range(64):
                file.write(piece)
            file.commit()
        with storage.open("a") as stored:
            while stored.read(MB):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25 * MB, "two parts of 5 MB under way, one being filled, and a copy of it when it is sent"


def test_ten_thousand_parts_hold_five_terabytes() -> None:
    sizes = [part_size(number, Limits().part) for number in range(1, 10_001)]
    assert sum(sizes) > 5 * 10**12
    assert min(sizes) >= 5 * MB
    assert max(sizes) <= 5 << 30
    assert sizes[:1000] == [8 * MB] * 1000


def test_what_is_sent_carries_a_checksum_for_the_store_to_check(
    storage: S3Storage, shared_s3_client: "S3Client"
) -> None:
    with calls_of(shared_s3_client) as calls:
        store(storage, "small", b"x")
        store(storage, "large", some_bytes(6 * MB))
    sent = [headers for operation, headers in calls if operation in ("PutObject", "UploadPart")]
    assert len(sent) == 3
    assert all("content-md5" in headers for headers in sent)


def test_a_small_file_is_one_call(storage: S3Storage, shared_s3_client: "S3Client") -> None:
    with calls_of(shared_s3_client) as calls:
        store(storage, "a", b"x")
    assert [operation for operation, _ in calls] == ["PutObject"]


def test_a_file_that_was_read_back_takes_no_more(storage: S3Storage) -> None:
    with storage.create("a") as file:
        file.write(b"verified")
        with file.read_back():
            pass
        with pytest.raises(ValueError, match="takes no more bytes"):
            file.write(b"and more")


# Copying in parts, which rclone cannot; moto simulates it, and If-Match too.


@pytest.fixture
def simulated(aws_keys: None) -> Iterator["S3Client"]:
    with mock_aws():
        client = s3_client(region="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def test_what_is_too_large_for_one_copy_is_copied_in_parts(simulated: "S3Client") -> None:
    storage = S3Storage(simulated, BUCKET, "p", limits=Limits(part=5 * MB, copy=6 * MB, copy_part=5 * MB))
    data = some_bytes(12 * MB + 1)
    with calls_of(simulated) as calls, storage.create("a") as file:
        file.write(data)
        with file.read_back() as written:
            assert written.read() == data
        assert not storage.exists("a")
        file.commit()
    assert load(storage, "a") == data
    assert Counter(operation for operation, _ in calls)["UploadPartCopy"] == 3
    assert [found["Key"] for found in simulated.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["p/a"]
    assert "Uploads" not in simulated.list_multipart_uploads(Bucket=BUCKET)


@pytest.mark.parametrize("copy", [5 * MB, 50 * MB])
def test_only_the_version_that_was_verified_is_published(simulated: "S3Client", copy: int) -> None:
    storage = S3Storage(simulated, BUCKET, "p", limits=Limits(part=5 * MB, copy=copy, copy_part=5 * MB))
    with calls_of(simulated) as calls, storage.create("a") as file:
        file.write(some_bytes(6 * MB))
        with file.read_back():
            [aside] = simulated.list_objects_v2(Bucket=BUCKET)["Contents"]
        file.commit()
    copies = [headers for operation, headers in calls if operation in ("CopyObject", "UploadPartCopy")]
    assert copies
    # Neither server here refuses on it, as S3 does; so what counts is that it is said.
    assert {headers["x-amz-copy-source-if-match"] for headers in copies} == {aside["ETag"]}
    assert {headers["x-amz-copy-source"] for headers in copies} == {f"{BUCKET}/{aside['Key']}"}


def test_a_store_that_cannot_copy_in_parts_is_an_error_and_nothing_is_published(
    shared_s3_client: "S3Client", prefix: str
) -> None:
    storage = S3Storage(shared_s3_client, BUCKET, prefix, limits=Limits(part=5 * MB, copy=MB))
    with storage.create("a") as file:
        file.write(some_bytes(6 * MB))
        with pytest.raises(StorageError, match="cannot copy objects of more than 5 GiB"):
            file.commit()
    assert not storage.exists("a")
    assert storage.sweep(timedelta(seconds=-5)) == []


# Reading


def test_reading_straight_on_takes_few_requests(storage: S3Storage, shared_s3_client: "S3Client") -> None:
    data = some_bytes(40 * MB)
    store(storage, "a", data)
    with calls_of(shared_s3_client) as calls, storage.open("a") as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == data
    assert [operation for operation, _ in calls] == ["HeadObject"] + ["GetObject"] * 4
    assert [headers["range"] for operation, headers in calls if operation == "GetObject"] == [
        f"bytes=0-{MB - 1}",
        f"bytes={MB}-{5 * MB - 1}",
        f"bytes={5 * MB}-{21 * MB - 1}",
        f"bytes={21 * MB}-{40 * MB - 1}",
    ]


def test_reading_here_and_there_reads_little_ahead(storage: S3Storage, shared_s3_client: "S3Client") -> None:
    data = some_bytes(40 * MB)
    store(storage, "a", data)
    places = random.Random(5).sample(range(len(data)), 30)
    with calls_of(shared_s3_client) as calls, storage.open("a") as file:
        for place in places:
            file.seek(place)
            assert file.read(1000) == data[place : place + 1000]
    ranges = [headers["range"] for operation, headers in calls if operation == "GetObject"]
    assert len(ranges) <= len(places) + 1
    for asked in ranges:
        begin, end = map(int, asked.removeprefix("bytes=").split("-"))
        assert end - begin < 4 * MB


def test_small_jumps_forward_are_not_new_requests(storage: S3Storage, shared_s3_client: "S3Client") -> None:
    data = some_bytes(900_000)
    store(storage, "a", data)
    with calls_of(shared_s3_client) as calls, storage.open("a") as file:
        for place in range(0, len(data), 300_000):
            file.seek(place)
            assert file.read(10) == data[place : place + 10]
    assert [operation for operation, _ in calls] == ["HeadObject", "GetObject"]


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(storage: S3Storage) -> None:
    store(storage, "a", some_bytes(9 * MB))
    with storage.open("a") as file:
        assert file.read(10) == some_bytes(9 * MB)[:10]
        store(storage, "a", some_bytes(9 * MB)[::-1])
        with pytest.raises(StorageError, match=r"a: the file was replaced while it was read; begin again"):
            file.read()


def test_a_store_that_knows_if_match_says_so_itself(simulated: "S3Client") -> None:
    storage = S3Storage(simulated, BUCKET)
    store(storage, "a", b"first")
    with storage.open("a") as file:
        store(storage, "a", b"other")
        with pytest.raises(StorageError, match=r"s3://exports/a: the file was replaced meanwhile.*412"):
            file.read()


# Deleting


def test_delete_takes_a_folder_of_thousands(own_s3_server: "S3Server") -> None:
    storage = S3Storage(client_to(own_s3_server.url), BUCKET)
    folder = own_s3_server.data / BUCKET / "many"
    folder.mkdir(parents=True)
    for number in range(2100):
        (folder / f"{number:04}").touch()
    assert storage.exists("many/2099")
    storage.delete("many")
    assert not storage.exists("many/2099")
    assert [path for path in folder.rglob("*") if path.is_file()] == []


# Links


def fetch(url: str) -> tuple[bytes, Any]:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read(), response.headers


def test_a_link_downloads_the_file_and_nothing_else_does(storage: S3Storage) -> None:
    store(storage, "a/b", b"[]")
    url = storage.link("a/b", timedelta(minutes=5), "Émile's data.json", "application/json")
    assert "X-Amz-Signature=" in url
    assert "X-Amz-Expires=300" in url
    content, headers = fetch(url)
    assert content == b"[]"
    assert headers["Content-Disposition"] == (
        "attachment; filename=\"_mile_s_data.json\"; filename*=UTF-8''%C3%89mile%27s%20data.json"
    )
    assert headers["Content-Type"] == "application/json"
    with pytest.raises(urllib.error.HTTPError, match=r"40[03]"):
        fetch(url.replace("X-Amz-Expires=300", "X-Amz-Expires=3000"))
    with pytest.raises(urllib.error.HTTPError, match=r"40[03]"):
        fetch(url.partition("?")[0])


def test_a_link_expires(storage: S3Storage) -> None:
    store(storage, "a", b"[]")
    url = storage.link("a", timedelta(seconds=1), "me.json", "application/json")
    time.sleep(2.1)
    with pytest.raises(urllib.error.HTTPError, match=r"40[03]"):
        fetch(url)


@pytest.mark.parametrize("expires", [timedelta(0), timedelta(milliseconds=900), timedelta(days=7, seconds=1)])
def test_a_link_for_longer_than_s3_allows_is_refused(storage: S3Storage, expires: timedelta) -> None:
    with pytest.raises(BadInputError, match="seven days"):
        storage.link("a", expires, "me.json", "application/json")


# Encryption on the server


def encryption_headers(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("x-amz-server-side-encryption")}


@pytest.mark.parametrize(
    ("sse", "key", "expected"),
    [
        (None, None, {}),
        ("AES256", None, {"x-amz-server-side-encryption": "AES256"}),
        ("aws:kms", None, {"x-amz-server-side-encryption": "aws:kms"}),
        (
            "aws:kms",
            "alias/exports",
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "alias/exports",
            },
        ),
    ],
)
def test_every_way_of_storing_asks_for_encryption(
    shared_s3_client: "S3Client", prefix: str, sse: str | None, key: str | None, expected: dict[str, str]
) -> None:
    parameters = encryption_parameters(sse, key)
    limits = Limits(part=5 * MB)
    storage = S3Storage(shared_s3_client, BUCKET, prefix, encryption=parameters, limits=limits)
    with calls_of(shared_s3_client) as calls:
        store(storage, "small", b"x")
        store(storage, "large", some_bytes(6 * MB))
    told = {operation: encryption_headers(headers) for operation, headers in calls}
    for operation in ("PutObject", "CreateMultipartUpload", "CopyObject"):
        assert told[operation] == expected


def test_what_is_copied_in_parts_is_encrypted_too(simulated: "S3Client") -> None:
    limits = Limits(part=5 * MB, copy=5 * MB, copy_part=5 * MB)
    storage = S3Storage(simulated, BUCKET, encryption=encryption_parameters("AES256", None), limits=limits)
    store(storage, "a", some_bytes(6 * MB))
    assert simulated.head_object(Bucket=BUCKET, Key="a")["ServerSideEncryption"] == "AES256"


@pytest.mark.parametrize(("sse", "key"), [("aes256", None), ("", None), ("AES256", "key"), (None, "key")])
def test_an_encryption_that_there_is_not_is_refused(sse: str | None, key: str | None) -> None:
    with pytest.raises(BadInputError, match="EXPORT_PIPELINE_S3_SSE"):
        open_storage("s3://bucket/prefix", sse=sse, sse_kms_key_id=key)


# Choosing a storage


@pytest.mark.parametrize(
    ("root", "located"),
    [
        ("s3://my.bucket-1", "s3://my.bucket-1/a"),
        ("s3://my.bucket-1/", "s3://my.bucket-1/a"),
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix/a"),
        ("s3://bucket/some/prefix/", "s3://bucket/some/prefix/a"),
    ],
)
def test_a_bucket_is_opened_without_looking_into_it(aws_keys: None, root: str, located: str) -> None:
    assert open_storage(root, endpoint_url="http://127.0.0.1:9", region="eu-central-1").locate("a") == located


@pytest.mark.parametrize(
    "root",
    [
        *("s3://", "s3:///prefix", "s3://ab", "s3://Bucket", "s3://bu_cket", "s3://bucket-/x", "s3://a..b", "s3://b?x"),
        *("s3://key:secret@bucket", "s3://bucket//x", "s3://bucket/../x", "s3://bucket/.hidden", "s3://bucket/a b"),
        "s3://" + "b" * 64,
    ],
)
def test_a_bucket_or_prefix_that_is_not_plain_is_refused(root: str) -> None:
    with pytest.raises(BadInputError, match=r"^EXPORT_PIPELINE_STORAGE: ") as refused:
        open_storage(root)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "minio:9000",
            "ftp://host",
            "http://",
            "http://key:secret@host:9000",
            "http://host:port",
            "https://h?secret=1",
        ),
        "http://[",
    ],
)
def test_an_endpoint_that_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(BadInputError, match=r"^EXPORT_PIPELINE_S3_ENDPOINT_URL: ") as refused:
        s3_client(url)
    assert "secret" not in str(refused.value)


def test_the_storage_of_an_installation(
    aws_keys: None, s3_server: "S3Server", prefix: str, shared_s3_client: "S3Client"
) -> None:
    store(open_storage(f"s3://{BUCKET}/{prefix}", endpoint_url=s3_server.url, region="us-east-1"), "a", b"[]")
    assert load(open_storage(f"s3://{BUCKET}/{prefix}", client=shared_s3_client), "a") == b"[]"


def test_the_client_of_dagsters_resource_serves_too(
    aws_keys: None, monkeypatch: pytest.MonkeyPatch, s3_server: "S3Server", prefix: str
) -> None:
    # rclone sends the checksum of the whole with each range; AWS does not, and needs no such setting.
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    client = S3Resource(endpoint_url=s3_server.url, region_name="us-east-1", max_attempts=2).get_client()
    storage = S3Storage(client, BUCKET, prefix, limits=Limits(part=5 * MB))
    data = some_bytes(6 * MB)
    with storage.create("a") as file:
        file.write(data)
        with file.read_back() as written:
            assert written.read() == data
        file.commit()
    assert load(storage, "a") == data
    storage.delete("a")
    assert not storage.exists("a")


def test_whoever_uses_a_directory_does_not_pay_for_boto() -> None:
    script = "import sys, export_pipeline.storage; sys.exit(bool({'boto3', 'botocore'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_boto_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(BadInputError, match=r"pip install 'export-pipeline\[s3\]'"):
        open_storage("s3://bucket")


# What goes wrong: each ends as StorageError, soon, and tells no keys.


@contextmanager
def refused(match: str) -> Iterator[None]:
    begun = time.monotonic()
    with pytest.raises(StorageError, match=match) as raised:
        yield
    assert time.monotonic() - begun < SOON
    assert not re.search(r"EXPORTTESTKEY|not-a-secret", str(raised.value))


def every_use(storage: S3Storage) -> list[Any]:
    return [
        lambda: storage.exists("a"),
        lambda: load(storage, "a"),
        lambda: store(storage, "a", b"x"),
        lambda: store(storage, "a", b"x" * 6 * MB),
        lambda: storage.delete("a"),
        lambda: storage.sweep(timedelta(0)),
    ]


USES = pytest.mark.parametrize("use", range(6), ids=["exists", "read", "write", "write large", "delete", "sweep"])


@USES
def test_wrong_keys(s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch, use: int) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "EXPORTTESTKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret-either")
    storage = S3Storage(s3_client(s3_server.url, "us-east-1"), BUCKET, "p", limits=Limits(part=5 * MB))
    with refused(r"^s3://exports/p/.*: access denied; check the AWS keys .*\(403 "):
        every_use(storage)[use]()


@USES
def test_a_bucket_that_is_not_there(shared_s3_client: "S3Client", use: int) -> None:
    storage = S3Storage(shared_s3_client, "no-such-bucket", "p", limits=Limits(part=5 * MB))
    with refused(r"^s3://no-such-bucket/p/.*: no such bucket; create it, or check EXPORT_PIPELINE_STORAGE"):
        every_use(storage)[use]()


@USES
def test_a_server_that_is_not_there(use: int) -> None:
    storage = S3Storage(client_to("http://127.0.0.1:9"), BUCKET, "p", limits=Limits(part=5 * MB))
    with refused(r"^s3://exports/p/.*: no answer.*check the network and EXPORT_PIPELINE_S3_ENDPOINT_URL"):
        every_use(storage)[use]()


def test_no_keys_at_all(monkeypatch: pytest.MonkeyPatch, aws_keys: None) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with refused("^s3://bucket/a: no AWS keys to be had; check"):
        open_storage("s3://bucket").exists("a")
    with refused("^s3://bucket/a: no AWS keys to be had; check"):
        open_storage("s3://bucket").link("a", timedelta(hours=1), "me.json", "application/json")


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch, aws_keys: None) -> None:
    monkeypatch.setenv("AWS_PROFILE", "none-of-that-name")
    with refused("^S3: no AWS keys to be had; check"):
        open_storage("s3://bucket")


def test_the_server_is_killed_in_the_middle_of_an_upload(own_s3_server: "S3Server") -> None:
    storage = S3Storage(client_to(own_s3_server.url), BUCKET, limits=Limits(part=5 * MB))

    def upload() -> None:
        with storage.create("a/b") as file:
            for number in range(20):
                file.write(some_bytes(5 * MB))
                if number == 3:
                    own_s3_server.kill()
            file.commit()

    with refused(r"^s3://exports/a/\.b\.[0-9a-f]{8}\.partial: no answer"):
        upload()


def test_the_server_is_killed_between_verifying_and_publishing(own_s3_server: "S3Server") -> None:
    storage = S3Storage(client_to(own_s3_server.url), BUCKET)

    def upload() -> None:
        with storage.create("a/b") as file:
            file.write(b"x")
            with file.read_back():
                own_s3_server.kill()
            file.commit()

    with refused("^s3://exports/a/b: no answer"):
        upload()


def test_the_server_is_killed_in_the_middle_of_a_read(own_s3_server: "S3Server") -> None:
    storage = S3Storage(client_to(own_s3_server.url), BUCKET)
    store(storage, "a", some_bytes(60 * MB))
    with storage.open("a") as file:
        assert file.read(10)
        own_s3_server.kill()
        with refused("^s3://exports/a: (no answer|reading broke off)"):
            file.read()


def through(proxy: "CuttingProxy", prefix: str) -> S3Storage:
    return S3Storage(client_to(proxy.url), BUCKET, prefix, limits=Limits(part=5 * MB))


@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
def test_the_network_is_cut_in_the_middle_of_an_upload(
    storage: S3Storage, proxy: "CuttingProxy", prefix: str, silent: bool
) -> None:
    proxy.cut_after(8 * MB, silent=silent)
    with refused(r"^s3://exports/s3/.*/a/\.b\.[0-9a-f]{8}\.partial: no answer, or not to its end"):
        store(through(proxy, prefix), "a/b", some_bytes(20 * MB))
    assert not storage.exists("a/b")
    [left] = storage.sweep(timedelta(seconds=-5))
    assert left.startswith("a/.b.")
    assert storage.sweep(timedelta(seconds=-5)) == []


def test_a_part_that_was_lost_is_not_forgotten(storage: S3Storage, proxy: "CuttingProxy", prefix: str) -> None:
    client = client_to(proxy.url, attempts=1)
    proxy.cut_after(7 * MB, heals=True)
    with S3Storage(client, BUCKET, prefix, limits=Limits(part=5 * MB)).create("a") as file:
        for _ in range(4):
            with suppress(StorageError):
                file.write(some_bytes(5 * MB))
        with refused("no answer, or not to its end"):
            file.commit()
    assert not storage.exists("a")


@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
def test_an_upload_survives_one_cut(storage: S3Storage, proxy: "CuttingProxy", prefix: str, silent: bool) -> None:
    proxy.cut_after(8 * MB, silent=silent, heals=True)
    store(through(proxy, prefix), "a", some_bytes(20 * MB))
    assert load(storage, "a") == some_bytes(20 * MB)


@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
def test_the_network_is_cut_in_the_middle_of_a_read(
    storage: S3Storage, proxy: "CuttingProxy", prefix: str, silent: bool
) -> None:
    store(storage, "a", some_bytes(20 * MB))
    proxy.cut_after(8 * MB, answers=True, silent=silent)
    with refused("/a: (no answer|reading broke off)"):
        load(through(proxy, prefix), "a")


@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
def test_a_read_survives_one_cut(storage: S3Storage, proxy: "CuttingProxy", prefix: str, silent: bool) -> None:
    store(storage, "a", some_bytes(20 * MB))
    proxy.cut_after(8 * MB, answers=True, silent=silent, heals=True)
    assert load(through(proxy, prefix), "a") == some_bytes(20 * MB)
    assert proxy.connections >= 2


def test_a_writer_that_is_killed_leaves_what_a_sweep_finds(
    storage: S3Storage, s3_server: "S3Server", prefix: str
) -> None:
    script = f"""
from export_pipeline.storage import open_storage
storage = open_storage("s3://{BUCKET}/{prefix}", endpoint_url="{s3_server.url}", region="us-east-1")
with storage.create("a/verified") as one, storage.create("a/half") as other:
    one.write(b"x")
    other.write(b"x" * {20 * MB})
    with one.read_back():
        print("written", flush=True)
        import time
        time.sleep(60)
"""
    keys = {"AWS_ACCESS_KEY_ID": "EXPORTTESTKEY", "AWS_SECRET_ACCESS_KEY": "not-a-secret-outside-of-tests"}
    with subprocess.Popen([sys.executable, "-c", script], env=os.environ | keys, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
    assert not storage.exists("a/verified")
    assert not storage.exists("a/half")
    assert storage.sweep(timedelta(hours=1)) == []
    assert [re.sub("[0-9a-f]{8}", "…", key) for key in storage.sweep(timedelta(seconds=-5))] == [
        "a/.half.….partial",
        "a/.verified.….partial",
    ]


def test_threads_end_with_their_upload(storage: S3Storage) -> None:
    with storage.create("a") as file:
        file.write(some_bytes(11 * MB))
    store(storage, "b", some_bytes(11 * MB))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("s3-upload")] == []


def test_a_reader_is_a_file_like_any_other(storage: S3Storage) -> None:
    store(storage, "a", b"one\ntwo\n")
    with storage.open("a") as file:
        assert list(io.TextIOWrapper(file)) == ["one\n", "two\n"]
    with storage.open("a") as file, pytest.raises(ValueError, match="before the beginning"):
        file.seek(-1)
