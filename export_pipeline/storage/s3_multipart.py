"""One multipart upload: sent or copied part by part, by few threads, complete in one step or gone."""

import base64
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from export_pipeline.errors import StorageError
from export_pipeline.storage.s3_client import Bucket
from export_pipeline.storage.s3_reader import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PARTS_OF_A_SIZE = 1000
AT_ONCE = 2


def part_size(number: int, first: int) -> int:
    """Return the size of part ``number``, from 1: it doubles every 1,000, so that S3's 10,000 hold 5 TB and more."""
    return int(first << (number - 1) // PARTS_OF_A_SIZE)


def content_md5(data: bytes) -> str:
    """Return the header by which the store checks what arrives."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


class MultipartUpload:
    """An upload to ``key`` that has begun; end it with ``complete`` or ``abort``."""

    def __init__(self, bucket: Bucket, key: str, encryption: Mapping[str, Any]) -> None:
        self._bucket = bucket
        self._key = key
        with bucket.errors(key):
            begun = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key, **encryption)
        self._id = begun["UploadId"]
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="s3-upload")
        self._under_way: deque[Future[CompletedPartTypeDef]] = deque()
        self._done: list[CompletedPartTypeDef] = []
        self._complete = False

    @property
    def next_part(self) -> int:
        """The number of the part that comes next."""
        return len(self._done) + len(self._under_way) + 1

    def send(self, data: bytes) -> None:
        """Begin to send the next part; waits while as many as may be are under way."""

        def send(number: int) -> str:
            return self._bucket.client.upload_part(
                Bucket=self._bucket.name,
                Key=self._key,
                UploadId=self._id,
                PartNumber=number,
                Body=data,
                ContentMD5=content_md5(data),
            )["ETag"]

        self._begin(send)

    def copy(self, source: StoredObject, begin: int, end: int) -> None:
        """Begin to copy the bytes from ``begin`` to ``end`` of ``source``, on the server, as the next part."""

        def copy(number: int) -> str:
            answer = self._bucket.client.upload_part_copy(
                Bucket=self._bucket.name,
                Key=self._key,
                UploadId=self._id,
                PartNumber=number,
                CopySource={"Bucket": self._bucket.name, "Key": source.key},
                CopySourceIfMatch=source.etag,
                CopySourceRange=f"bytes={begin}-{end - 1}",
            )
            # A store that does not know this call takes it for a part without content, and says that all is well.
            etag = answer["CopyPartResult"].get("ETag")
            if etag is None:
                raise StorageError(
                    f"{self._bucket.locate(self._key)}: this store cannot copy objects of more than 5 GiB; "
                    "split the export, or take another store"
                )
            return etag

        self._begin(copy)

    def complete(self) -> None:
        """Wait for all parts and make them one object, visible from here on."""
        while self._under_way:
            self._wait_for_one()
        with self._bucket.errors(self._key):
            self._bucket.client.complete_multipart_upload(
                Bucket=self._bucket.name, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": self._done}
            )
        self._complete = True
        self._threads.shutdown()

    def abort(self) -> None:
        """Give up, so that no part is left; nothing happens to a complete upload."""
        if self._complete:
            return
        # First the threads: a part that arrives after the abort would stay.
        self._threads.shutdown(cancel_futures=True)
        with suppress(StorageError), self._bucket.errors(self._key):
            self._bucket.client.abort_multipart_upload(Bucket=self._bucket.name, Key=self._key, UploadId=self._id)

    def _begin(self, call: Callable[[int], str]) -> None:
        number = self.next_part

        def part() -> "CompletedPartTypeDef":
            with self._bucket.errors(self._key):
                return {"PartNumber": number, "ETag": call(number)}

        while len(self._under_way) >= AT_ONCE:
            self._wait_for_one()
        self._under_way.append(self._threads.submit(part))

    def _wait_for_one(self) -> None:
        # Taken off only when it is well: a part that failed fails all that comes after it too.
        self._done.append(self._under_way[0].result())
        self._under_way.popleft()
