"""Every setting: typed, with its default and the environment variable that sets it.

Nothing else in the project reads the environment. Import-light: every command and every run pays for this module.
"""

import re
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from export_pipeline.errors import BadInputError

ENV_PREFIX = "EXPORT_PIPELINE_"


class Settings(BaseSettings):
    """The settings of one installation; ``Settings.load()`` reads them from the environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, env_ignore_empty=True, populate_by_name=True)

    home: Path = Field(
        Path(".export_pipeline"),
        validation_alias=AliasChoices("DAGSTER_HOME"),
        description="Where Dagster, and by default the requests table and the exports, live.",
    )
    mongo_uri: SecretStr = Field(
        SecretStr("mongodb://127.0.0.1:27017"),
        description="The MongoDB to export from. Shown without its password.",
    )
    mongo_database: str = Field("countly", description="The database that the catalogue's collections are in.")
    catalog: Path | None = Field(None, description="The catalogue's YAML file; the packaged countly.yaml if unset.")
    requests_url: SecretStr | None = Field(
        None,
        description="The requests table's database, as a SQLAlchemy URL; SQLite under DAGSTER_HOME if unset.",
    )
    storage: str | None = Field(
        None,
        description="Where slices and exports go: a directory, or s3://bucket/prefix; exports/ under DAGSTER_HOME "
        "if unset.",
    )
    s3_endpoint_url: str | None = Field(None, description="For a store that is not Amazon's: its URL.")
    s3_region: str | None = Field(None, description="The region of the bucket. Keys come from the usual AWS chain.")
    s3_sse: Literal["AES256", "aws:kms"] | None = Field(
        None, description="How S3 encrypts what is stored: AES256 or aws:kms; as the bucket says if unset."
    )
    s3_sse_kms_key_id: str | None = Field(None, description="The key's id, for aws:kms.")
    encoder_processes: int = Field(
        1, ge=1, le=16, description="How many processes write one large JSON file; more than one where cores are idle."
    )
    secret_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="Seals passphrases while they wait for their export: 32 characters or more, the same everywhere.",
    )
    batch_size: int = Field(500, ge=1, le=10_000, description="The most requests that one run serves.")
    retention: timedelta = Field(
        timedelta(days=7),
        gt=timedelta(0),
        le=timedelta(days=36_500),
        description="How long a finished export is kept: days, or an ISO 8601 duration (P7D).",
    )
    require_point_in_time: bool = Field(
        True,
        description="Refuse servers that cannot read all collections at one point in time (standalone ones).",
    )
    read_timeout: timedelta = Field(
        timedelta(minutes=10),
        ge=timedelta(milliseconds=1),  # to the server, 0 is no limit
        le=timedelta(days=24),  # and it counts milliseconds in 31 bits
        description="The longest one query may work on the server: seconds, or ISO 8601.",
    )

    @field_validator("retention", "read_timeout", mode="before")
    @classmethod
    def _plain_number_has_a_unit(cls, value: object, info: ValidationInfo) -> object:
        unit = timedelta(days=1) if info.field_name == "retention" else timedelta(seconds=1)
        try:
            return float(value) * unit if isinstance(value, str | int | float) else value
        except (ValueError, OverflowError):
            return value

    @classmethod
    def load(cls) -> "Settings":
        """Read the environment. Raises BadInputError that names the variable and what it takes."""
        try:
            return cls()
        except ValidationError as error:
            raise BadInputError("; ".join(_explain(item["loc"], item["msg"]) for item in error.errors())) from None

    @cached_property
    def requests_database(self) -> str:
        """The SQLAlchemy URL of the requests table."""
        if self.requests_url is not None:
            return self.requests_url.get_secret_value()
        return f"sqlite:///{self.home.absolute() / 'requests.db'}"

    def shown(self, field: str) -> str:
        """Return the value of ``field`` as an operator may see it: no password, and what stands in for a default."""
        if field == "mongo_uri":
            return _without_secrets(self.mongo_uri.get_secret_value())
        if field == "requests_url":
            return _without_secrets(self.requests_database)
        if field == "storage":
            return self.storage_root
        if field == "secret_key" and self.secret_key is not None:
            return "***"
        value = getattr(self, field)
        if field == "catalog" and value is None:
            return "packaged countly.yaml"
        return "unset" if value is None else str(value)

    @cached_property
    def storage_root(self) -> str:
        """The directory that holds ``exports/``, ``slices/`` and ``backups/``."""
        return self.storage or str(self.home.absolute() / "exports")


def environment_variable(field: str) -> str:
    """Return the name of the environment variable that sets ``field``."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"{ENV_PREFIX}{field.upper()}"


def _explain(location: tuple[int | str, ...], message: str) -> str:
    field = str(location[0])
    name = environment_variable(field) if field in Settings.model_fields else field
    return f"{name}: {message[:1].lower()}{message[1:]}"


def _without_secrets(url: str) -> str:
    """Hide who logs in, with what, and the options, which may hold tokens."""
    address, _, options = url.partition("?")
    if "@" in options:
        return "***"  # something was not escaped, and there is no telling where the password ends
    address = re.sub(r"^([\w+.-]+://)?.*@", r"\1***@", address, flags=re.DOTALL)
    return f"{address}?…" if options else address
