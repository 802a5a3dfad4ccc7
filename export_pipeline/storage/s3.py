"""Storage in a bucket of S3, or of a store that speaks its protocol."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from export_pipeline.errors import BadInputError, StorageError
from export_pipeline.storage.protocol import PendingFile, checked_key, is_aside
from export_pipeline.storage.s3_client import Bucket
from export_pipeline.storage.s3_reader import StoredObject, open_object
from export_pipeline.storage.s3_upload import Limits, S3Upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEME = "s3://"
LONGEST_LINK = timedelta(days=7)
"""What S3 allows. Links signed with the keys of a role end with those keys, which may be sooner."""

_BUCKET = re.compile(r"[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9]")


class S3Storage:
    """Files below ``prefix`` in one bucket, which has to exist.

    Whoever holds the client's keys needs s3:GetObject, PutObject, DeleteObject, AbortMultipartUpload, ListBucket and
    ListBucketMultipartUploads. In a bucket with versions, what is deleted stays as an old version until a lifecycle
    rule of the bucket removes it. ``encryption`` is what ``encryption_parameters`` returns.
    """

    def __init__(
        self,
        client: "S3Client",
        bucket: str,
        prefix: str = "",
        *,
        encryption: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._client = client
        self._bucket = Bucket(client, bucket)
        self._folder = f"{prefix}/" if prefix else ""
        self._encryption = encryption or {}
        self._limits = limits or Limits()

    @contextmanager
    def create(self, key: str) -> Iterator[PendingFile]:
        """See ``Storage.create``."""
        upload = S3Upload(self._bucket, self._name(key), self._encryption, self._limits)
        try:
            yield upload
        finally:
            upload.discard()

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """See ``Storage.open``. Who has a file open that is then replaced gets StorageError, never a mixture."""
        found = self._find(self._name(key))
        if found is None:
            raise StorageError(f"{self.locate(key)}: no such file; check EXPORT_PIPELINE_STORAGE")
        with open_object(found) as file:
            yield file

    def exists(self, key: str) -> bool:
        """See ``Storage.exists``."""
        return self._find(self._name(key)) is not None

    def delete(self, prefix: str) -> None:
        """See ``Storage.delete``; uploads into the folder that are under way end too."""
        name = self._name(prefix)
        if self._find(name) is not None:
            self._remove([name])
        for page in self._objects(f"{name}/"):
            self._remove([found["Key"] for found in page.get("Contents", ())])
        for upload, _ in self._uploads(f"{name}/"):
            self._abort(upload["Key"], upload["UploadId"])

    def folders(self, prefix: str) -> list[str]:
        """See ``Storage.folders``."""
        name = f"{self._name(prefix)}/"
        found: set[str] = set()
        with self._bucket.errors(name):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket.name, Prefix=name, Delimiter="/"):
                found.update(below["Prefix"][len(name) : -1] for below in page.get("CommonPrefixes", ()))
        return sorted(found)

    def locate(self, key: str) -> str:
        """See ``Storage.locate``."""
        return self._bucket.locate(self._name(key))

    def link(self, key: str, expires: timedelta, filename: str, content_type: str) -> str:
        """See ``Storage.link``: a pre-signed URL. Raises BadInputError unless it expires within seven days."""
        name = self._name(key)
        if not timedelta(seconds=1) <= expires <= LONGEST_LINK:
            raise BadInputError("a link of S3 may live from a second to seven days")
        with self._bucket.errors(name):
            return self._client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket.name,
                    "Key": name,
                    "ResponseContentDisposition": _attachment(filename),
                    "ResponseContentType": content_type,
                },
                ExpiresIn=int(expires.total_seconds()),
            )

    def sweep(self, older_than: timedelta) -> list[str]:
        """See ``Storage.sweep``; the age is told by the store's clock, from the beginning of the upload."""
        removed: set[str] = set()
        for page in self._objects(self._folder):
            newest = _clock(page) - older_than
            stale = [
                found["Key"]
                for found in page.get("Contents", ())
                if is_aside(found["Key"].rpartition("/")[2]) and found["LastModified"] < newest
            ]
            self._remove(stale)
            removed.update(stale)
        for upload, listed in self._uploads(self._folder):
            if upload["Initiated"] < listed - older_than:
                self._abort(upload["Key"], upload["UploadId"])
                removed.add(upload["Key"])
        return sorted(name.removeprefix(self._folder) for name in removed)

    def _name(self, key: str) -> str:
        return self._folder + checked_key(key)

    def _find(self, name: str) -> StoredObject | None:
        with self._bucket.errors(name):
            try:
                found = self._client.head_object(Bucket=self._bucket.name, Key=name)
            except self._client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                # The same answer for a bucket that is not there, which must not pass for one that is empty.
                self._client.list_objects_v2(Bucket=self._bucket.name, Prefix=name, MaxKeys=1)
                return None
        return StoredObject(self._bucket, name, found["ETag"], found["ContentLength"])

    def _objects(self, prefix: str) -> Iterator[Any]:
        """List objects, in pages of at most 1,000."""
        with self._bucket.errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self._bucket.name, Prefix=prefix)

    def _uploads(self, prefix: str) -> Iterator[tuple[Any, datetime]]:
        """List uploads that have not ended, each with the store's time."""
        # Some stores answer with NoSuchUpload where there never was one.
        with self._bucket.errors(prefix), suppress(self._client.exceptions.NoSuchUpload):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket.name, Prefix=prefix):
                for upload in page.get("Uploads", ()):
                    yield upload, _clock(page)

    def _remove(self, names: Iterable[str]) -> None:
        """Remove at most 1,000 objects, which is as many as a page of a listing holds."""
        objects: list[Any] = [{"Key": name} for name in names]
        if not objects:
            return
        first = objects[0]["Key"]
        with self._bucket.errors(first):
            answer = self._client.delete_objects(Bucket=self._bucket.name, Delete={"Objects": objects, "Quiet": True})
        for refused in answer.get("Errors", ()):
            raise StorageError(
                f"{self._bucket.locate(refused['Key'])}: it could not be deleted ({refused['Code']}); check that the "
                "AWS keys may delete there and that nothing locks the file"
            )

    def _abort(self, name: str, upload_id: str) -> None:
        # Its writer may be alive, and just have ended it.
        with self._bucket.errors(name), suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(Bucket=self._bucket.name, Key=name, UploadId=upload_id)


def split_url(url: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/prefix``. Raises BadInputError where they are no plain names."""
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise BadInputError(
            "EXPORT_PIPELINE_STORAGE: not a bucket's name (3 to 63 of a-z, 0-9, '-' and '.'); "
            "give s3://bucket or s3://bucket/prefix"
        )
    prefix = prefix.rstrip("/")
    try:
        return bucket, checked_key(prefix) if prefix else ""
    except BadInputError as error:
        raise BadInputError(
            "EXPORT_PIPELINE_STORAGE: the prefix after the bucket has to be plain names with '/' between them"
        ) from error


def encryption_parameters(sse: str | None, kms_key_id: str | None) -> dict[str, str]:
    """Return how S3 is to encrypt what is stored: ``AES256``, ``aws:kms`` with or without a key, or as the bucket says.

    Raises BadInputError for anything else.
    """
    if sse not in (None, "AES256", "aws:kms"):
        raise BadInputError("EXPORT_PIPELINE_S3_SSE: one of AES256 and aws:kms, or unset for what the bucket says")
    if kms_key_id is not None and sse != "aws:kms":
        raise BadInputError("EXPORT_PIPELINE_S3_SSE_KMS_KEY_ID: a key goes with EXPORT_PIPELINE_S3_SSE=aws:kms only")
    parameters = {"ServerSideEncryption": sse, "SSEKMSKeyId": kms_key_id}
    return {name: value for name, value in parameters.items() if value is not None}


def _attachment(filename: str) -> str:
    plain = re.sub(r"[^\w.-]", "_", filename, flags=re.ASCII)  # for programs that do not know filename*
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _clock(page: Any) -> datetime:
    return parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
