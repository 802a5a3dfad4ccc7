"""Every setting: typed, with its default and the environment variable that sets it.

Nothing else in the project reads the environment. Import-light: every command and every run pays for this module.
"""

import re
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from export_pipeline.errors import BadInputError

ENV_PREFIX = "EXPORT_PIPELINE_"

_IN_DAYS = ("retention", "run_retention", "due_soon")


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
        description="Signs the HTTP API's links and cursors, and seals passphrases while they wait for their export: "
        "32 characters or more, the same everywhere.",
    )
    batch_size: int = Field(500, ge=1, le=10_000, description="The most requests that one run serves.")
    retention: timedelta = Field(
        timedelta(days=7),
        gt=timedelta(0),
        le=timedelta(days=36_500),
        description="How long a finished export is kept: days, or an ISO 8601 duration (P7D).",
    )
    run_retention: timedelta = Field(
        timedelta(days=30),
        gt=timedelta(0),
        le=timedelta(days=36_500),
        description="How long Dagster keeps finished runs of our jobs, with their events: days, or ISO 8601.",
    )
    due_soon: timedelta = Field(
        timedelta(days=7),
        ge=timedelta(0),
        le=timedelta(days=30),
        description="How long before its due date an unfinished request is warned of: days, or ISO 8601.",
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
    concurrent_reads: int = Field(
        4, ge=1, le=256, description="The most reads that one process has under way on the MongoDB at once."
    )
    # MongoDB's manual and WiredTiger's (cache and eviction tuning): at 20 % dirty and 95 % used the server makes the
    # threads of its clients clean up before they are served.
    max_cache_dirty: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Reading pauses while this share of the server's cache waits to be written; 0 does not look. "
        "Needs the role clusterMonitor.",
    )
    max_cache_used: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Reading pauses while this share of the server's cache is in use; 0 does not look. "
        "Needs the role clusterMonitor.",
    )
    max_replication_lag: timedelta = Field(
        timedelta(minutes=1),
        ge=timedelta(0),
        description="Reading pauses while a secondary that may be read from is this far behind: seconds, or ISO 8601; "
        "0 does not look. Known to 10 s, so less than 20 s means little.",
    )
    max_pause: timedelta = Field(
        timedelta(minutes=10),
        ge=timedelta(0),
        description="The longest that reading one collection pauses in all before its requests fail, to be tried "
        "again: seconds, or ISO 8601. MongoDB closes a cursor that idles for 10 minutes.",
    )

    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="Where people reach the HTTP API, such as https://exports.example.org; links begin with it. "
        "Unset, they are without a host.",
    )
    poll_after: timedelta = Field(
        timedelta(seconds=5),
        ge=timedelta(0),
        le=timedelta(hours=1),
        description="After how long the HTTP API has a caller ask again for an export's state, the first time; each "
        "time ln 2 s are added: seconds, or ISO 8601.",
    )
    max_body_bytes: int = Field(
        1 << 20, ge=1 << 10, le=1 << 30, description="The most bytes that the HTTP API takes in one request."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Whose pages may call the HTTP API from a browser: origins such as https://admin.example.org, with "
        "commas between them. None if unset.",
    )
    token_rate_limit: int = Field(600, ge=1, description="The most calls of the HTTP API in a minute with one token.")
    app_rate_limit: int = Field(
        3000, ge=1, description="The most calls of the HTTP API in a minute for one app, by all tokens."
    )
    anonymous_rate_limit: int = Field(
        60, ge=1, description="The most calls of the HTTP API in a minute without a valid token from one address."
    )
    metrics_open: bool = Field(
        False,
        description="Let everybody who reaches the HTTP API read /metrics, which name no person; else it takes a token "
        "for all apps.",
    )
    smtp_host: str | None = Field(None, description="The mail server that mail is handed over to; no mail if unset.")
    smtp_port: int = Field(587, ge=1, le=65_535, description="Its port for submission.")
    smtp_user: str | None = Field(None, description="Who logs in there; nobody if unset.")
    smtp_password: SecretStr | None = Field(None, description="The password for that.")
    smtp_starttls: bool = Field(
        True,
        description="Speak TLS with the mail server (STARTTLS) and check its certificate, by SSL_CERT_FILE where that "
        "is set. Off, no password is sent.",
    )
    mail_from: str | None = Field(
        None, description="Whom mail is from: an address, or a name with one: Exports <exports@example.org>."
    )
    mail_templates: Path | None = Field(
        None,
        description="A folder with your own subject.txt.jinja, mail.txt.jinja and mail.html.jinja; the packaged ones "
        "if unset.",
    )
    webhook_secret: SecretStr | None = Field(
        None, min_length=32, description="Signs webhooks: 32 characters or more, which their receivers have too."
    )
    webhook_private: bool = Field(
        False, description="Let webhooks reach addresses of your own network and this machine, by http too."
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins_have_commas_between_them(cls, value: object) -> object:
        return [origin.strip().rstrip("/") for origin in value.split(",")] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_named(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"https?://[^\s/?#@*]+", origin) for origin in origins):
            raise ValueError("expected origins such as https://admin.example.org, with commas between them")
        return origins

    @field_validator(*_IN_DAYS, "poll_after", "read_timeout", "max_replication_lag", "max_pause", mode="before")
    @classmethod
    def _plain_number_has_a_unit(cls, value: object, info: ValidationInfo) -> object:
        unit = timedelta(days=1) if info.field_name in _IN_DAYS else timedelta(seconds=1)
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
        value = getattr(self, field)
        if isinstance(value, SecretStr):
            return "***"
        if field == "catalog" and value is None:
            return "packaged countly.yaml"
        if isinstance(value, tuple):
            return ", ".join(value) or "unset"
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
