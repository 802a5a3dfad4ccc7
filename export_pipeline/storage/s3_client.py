"""How S3 is reached: the client where Dagster does not bring one, and its errors in words for people.

boto3 is imported when a client is made: whoever keeps exports in a directory needs none of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from export_pipeline.errors import BadInputError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 60.0
ATTEMPTS = 3
"""Of each call, the first one included."""

_CHECK_ENDPOINT = "check the network and EXPORT_PIPELINE_S3_ENDPOINT_URL"
_CHECK_KEYS = (
    "check the AWS keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, a profile or a role) and that they may read, write, "
    "list and delete there"
)
_CHECK_REGION = "check EXPORT_PIPELINE_S3_REGION"
_CHECK_STORAGE = "check EXPORT_PIPELINE_STORAGE"

_REASONS = {
    "NoSuchKey": f"no such file; {_CHECK_STORAGE}",
    "NoSuchBucket": f"no such bucket; create it, or {_CHECK_STORAGE} and EXPORT_PIPELINE_S3_ENDPOINT_URL",
    "NoSuchUpload": "the upload was ended by somebody else; retry",
    "PreconditionFailed": "the file was replaced meanwhile; begin again",
    "BadDigest": "what arrived was not what was sent; retry",
    "RequestTimeTooSkewed": "this machine's clock differs from the store's; set it right",
    "PermanentRedirect": f"the bucket is in another region; {_CHECK_REGION}",
    "AuthorizationHeaderMalformed": f"the bucket is in another region; {_CHECK_REGION}",
    "EntityTooLarge": "the file is larger than this store takes",
    "QuotaExceeded": "the store is full; make room",
}
_REASONS_BY_STATUS = {
    301: _REASONS["PermanentRedirect"],
    400: f"the store refused the request; {_CHECK_REGION}, EXPORT_PIPELINE_S3_ENDPOINT_URL and the encryption settings",
    401: f"access denied; {_CHECK_KEYS}",
    403: f"access denied; {_CHECK_KEYS}",
    404: _REASONS["NoSuchKey"],
    412: _REASONS["PreconditionFailed"],
    429: "the store is busy; retry later",
    501: "this store cannot do what was asked of it; take another one",
    503: "the store is busy; retry later",
    507: _REASONS["QuotaExceeded"],
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and the client to reach it with."""

    client: "S3Client"
    name: str

    def locate(self, key: str) -> str:
        """Return the URL by which S3's tools know an object."""
        return f"s3://{self.name}/{key}"

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Turn what goes wrong with the object ``key`` into StorageError: what, where, and what to check."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise StorageError(f"{self.locate(key)}: {_reason(error)}") from error


def s3_client(
    endpoint_url: str | None = None,
    region: str | None = None,
    *,
    connect_timeout: float = CONNECT_TIMEOUT,
    read_timeout: float = READ_TIMEOUT,
    attempts: int = ATTEMPTS,
) -> "S3Client":
    """Make a client whose keys come from the usual AWS chain; the timeouts are in seconds.

    Raises BadInputError where the endpoint is not a URL or boto3 is not installed, StorageError where the chain is
    broken.
    """
    if endpoint_url is not None:
        _check_endpoint(endpoint_url)
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise BadInputError(
            "EXPORT_PIPELINE_STORAGE: S3 needs boto3; pip install 'export-pipeline[s3]', or give a directory"
        ) from error
    config = Config(
        # Links signed in any other way are refused by newer regions, by most compatible stores and for KMS.
        signature_version="s3v4",
        s3={"addressing_style": "auto" if endpoint_url is None else "path"},
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Uploads carry Content-MD5, which every store checks; newer checksums break some compatible ones.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
    except BotoCoreError as error:
        raise StorageError(f"S3: {_reason(error)}") from error


def _check_endpoint(url: str) -> None:
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and not parts.query
        _ = parts.port
    except ValueError:
        plain = False
    if not plain:
        raise BadInputError(
            "EXPORT_PIPELINE_S3_ENDPOINT_URL: not a plain URL; give one like https://s3.example.org, without keys"
        )


def _reason(error: Exception) -> str:
    """Say what went wrong and what to do. The error's own text may hold keys or addresses, so none of it is used."""
    from botocore import exceptions

    kind = type(error).__name__
    if isinstance(error, exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", "no code"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        reason = _REASONS.get(code) or _REASONS_BY_STATUS.get(status) or "the store failed; retry later"
        return f"{reason} ({status} {code})"
    if isinstance(
        error,
        exceptions.NoCredentialsError
        | exceptions.PartialCredentialsError
        | exceptions.CredentialRetrievalError
        | exceptions.ProfileNotFound,
    ):
        return f"no AWS keys to be had; {_CHECK_KEYS} ({kind})"
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return f"no answer, or not to its end; {_CHECK_ENDPOINT} ({kind})"
    return f"the store cannot be used like this; {_CHECK_ENDPOINT} ({kind})"
