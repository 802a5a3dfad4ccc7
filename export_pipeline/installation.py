"""One installation: what its settings name, each part opened when it is first needed."""

from functools import cached_property
from typing import TYPE_CHECKING, Self

from pymongo import MongoClient
from sqlalchemy import Engine

from export_pipeline.catalog.load import load_catalog
from export_pipeline.catalog.model import LoadedCatalog
from export_pipeline.mongo.connection import Document, connect
from export_pipeline.requests.database import open_database
from export_pipeline.requests.store import RequestStore
from export_pipeline.settings import Settings
from export_pipeline.storage import Storage, open_storage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Installation:
    """Its settings, catalogue, database, requests table, storage and MongoDB."""

    def __init__(self, settings: Settings, s3_client: "S3Client | None" = None) -> None:
        self.settings = settings
        self._s3_client = s3_client

    @cached_property
    def catalog(self) -> LoadedCatalog:
        """The catalogue that the settings name."""
        return load_catalog(self.settings.catalog)

    @cached_property
    def database(self) -> Engine:
        """The database of the requests table and of all that lies beside it, migrated."""
        return open_database(self.settings.requests_database)

    @cached_property
    def requests(self) -> RequestStore:
        """The requests table."""
        return RequestStore(self.database)

    @cached_property
    def storage(self) -> Storage:
        """Where slices and packages go."""
        settings = self.settings
        return open_storage(
            settings.storage_root,
            endpoint_url=settings.s3_endpoint_url,
            region=settings.s3_region,
            sse=settings.s3_sse,
            sse_kms_key_id=settings.s3_sse_kms_key_id,
            client=self._s3_client,
        )

    @cached_property
    def client(self) -> MongoClient[Document]:
        """The MongoDB to export from."""
        return connect(self.settings.mongo_uri.get_secret_value())

    def close(self) -> None:
        """Close what was opened."""
        self.__dict__.pop("requests", None)
        if "database" in self.__dict__:
            self.__dict__.pop("database").dispose()
        if "client" in self.__dict__:
            self.__dict__.pop("client").close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
