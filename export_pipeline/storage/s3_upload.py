"""A file on its way into S3: written beside its key, part by part, and copied to it, on the server, by ``commit``.

S3 cannot read an upload that is not complete. So that a file can be verified before it is seen under its key, it is
first completed under a name that no key can have (``aside_name``), in the same folder.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from export_pipeline.errors import StorageError
from export_pipeline.storage.protocol import aside_name
from export_pipeline.storage.s3_client import Bucket
from export_pipeline.storage.s3_multipart import MultipartUpload, content_md5, part_size
from export_pipeline.storage.s3_reader import StoredObject, open_object


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes."""

    part: int = 8 << 20
    """The first parts of an upload; three of them may be in memory."""
    copy: int = 5 << 30
    """The largest object that S3 copies in one call; larger ones are copied in parts."""
    copy_part: int = 1 << 30


class S3Upload:
    """The pending file.

    Until ``commit``, ``key`` is what it was: absent, or the file committed before. Then it becomes this file in one
    step, the end of a copy on the server of exactly the version that was read back. Where ``commit`` raises, one of
    the two is there, whole. A file smaller than a part that nobody read back goes to its key directly.
    """

    def __init__(self, bucket: Bucket, key: str, encryption: Mapping[str, Any], limits: Limits) -> None:
        self._bucket = bucket
        self._key = key
        folder, slash, name = key.rpartition("/")
        self._aside = f"{folder}{slash}{aside_name(name)}"
        self._encryption = encryption
        self._limits = limits
        self._size = 0
        self._buffer = bytearray()
        self._upload: MultipartUpload | None = None
        self._copying: MultipartUpload | None = None
        self._takes_bytes = True
        self._aside_may_exist = False
        self._stored: StoredObject | None = None

    def write(self, data: bytes) -> int:
        """See ``PendingFile.write``."""
        if not self._takes_bytes:
            raise ValueError("a file that was read back or committed takes no more bytes")
        view = memoryview(data).cast("B")
        size = len(view)
        while len(view) >= (room := self._part_bytes() - len(self._buffer)):
            self._buffer += view[:room]
            view = view[room:]
            self._send()
        self._buffer += view
        self._size += size
        return size

    def tell(self) -> int:
        """See ``PendingFile.tell``."""
        return self._size

    @contextmanager
    def read_back(self) -> Iterator[BinaryIO]:
        """See ``PendingFile.read_back``: what S3 now holds, under the other name."""
        with open_object(self._store_aside()) as file:
            yield file

    def commit(self) -> None:
        """See ``PendingFile.commit``."""
        if self._upload is None and self._stored is None:
            self._takes_bytes = False
            self._put(self._key)
        else:
            self._copy(self._store_aside())

    def discard(self) -> None:
        """Remove what is beside the key. What cannot be removed, because S3 does not answer, is left to ``sweep``."""
        for upload in (self._upload, self._copying):
            if upload is not None:
                upload.abort()
        if self._aside_may_exist:
            with suppress(StorageError), self._bucket.errors(self._aside):
                self._bucket.client.delete_object(Bucket=self._bucket.name, Key=self._aside)

    def _part_bytes(self) -> int:
        return part_size(1 if self._upload is None else self._upload.next_part, self._limits.part)

    def _send(self) -> None:
        if self._upload is None:
            self._upload = MultipartUpload(self._bucket, self._aside, self._encryption)
        self._upload.send(bytes(self._buffer))
        self._buffer = bytearray()

    def _store_aside(self) -> StoredObject:
        if self._stored is None:
            self._takes_bytes = False
            self._aside_may_exist = True
            if self._upload is None:
                self._put(self._aside)
            else:
                if self._buffer:
                    self._send()
                self._upload.complete()
            with self._bucket.errors(self._aside):
                found = self._bucket.client.head_object(Bucket=self._bucket.name, Key=self._aside)
            if found["ContentLength"] != self._size:
                raise StorageError(
                    f"{self._bucket.locate(self._key)}: {self._size} bytes were sent, and the store holds "
                    f"{found['ContentLength']}; retry"
                )
            self._stored = StoredObject(self._bucket, self._aside, found["ETag"], self._size)
        return self._stored

    def _put(self, key: str) -> None:
        data = bytes(self._buffer)
        with self._bucket.errors(key):
            self._bucket.client.put_object(
                Bucket=self._bucket.name,
                Key=key,
                Body=data,
                ContentMD5=content_md5(data),
                **self._encryption,
            )

    def _copy(self, source: StoredObject) -> None:
        if source.size <= self._limits.copy:
            with self._bucket.errors(self._key):
                self._bucket.client.copy_object(
                    Bucket=self._bucket.name,
                    Key=self._key,
                    CopySource={"Bucket": self._bucket.name, "Key": source.key},
                    CopySourceIfMatch=source.etag,
                    **self._encryption,
                )
            return
        self._copying = MultipartUpload(self._bucket, self._key, self._encryption)
        for begin in range(0, source.size, self._limits.copy_part):
            self._copying.copy(source, begin, min(begin + self._limits.copy_part, source.size))
        self._copying.complete()
