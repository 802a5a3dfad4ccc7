"""Where slices, exports and backups are kept, behind one protocol."""

from typing import TYPE_CHECKING

from export_pipeline.errors import BadInputError
from export_pipeline.storage.directory import DirectoryStorage, create_file
from export_pipeline.storage.protocol import PendingFile, Storage
from export_pipeline.storage.s3 import SCHEME, S3Storage, encryption_parameters, split_url
from export_pipeline.storage.s3_client import s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["DirectoryStorage", "PendingFile", "S3Storage", "Storage", "create_file", "open_storage", "s3_client"]


def open_storage(
    root: str,
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    sse: str | None = None,
    sse_kms_key_id: str | None = None,
    client: "S3Client | None" = None,
) -> Storage:
    """Return the storage that ``root`` (the setting EXPORT_PIPELINE_STORAGE) names, without looking into it.

    ``root`` is a directory or ``s3://bucket/prefix``. Only S3 knows the rest: ``sse`` and its key as for
    ``encryption_parameters``; ``client``, or else one for this endpoint and region with the keys of the AWS chain.
    """
    if root.startswith(SCHEME):
        bucket, prefix = split_url(root)
        encryption = encryption_parameters(sse, sse_kms_key_id)
        return S3Storage(client or s3_client(endpoint_url, region), bucket, prefix, encryption=encryption)
    if "://" in root:
        raise BadInputError(
            f"EXPORT_PIPELINE_STORAGE: no storage of the kind '{root.partition('://')[0]}'; "
            "give a directory or s3://bucket/prefix"
        )
    return DirectoryStorage(root)
