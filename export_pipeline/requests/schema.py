"""The tables, as SQLAlchemy Core objects. A change here needs a migration beside it (``migrations/versions``)."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in and out; SQLite, which has no time zones, keeps them as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Store UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

_NUMBER = BigInteger().with_variant(Integer, "sqlite")
_LIVE = text("status IN ('pending', 'running')")

export_requests = Table(
    "export_requests",
    metadata,
    Column("id", String(36), primary_key=True),  # UUIDv7: ordered by age
    Column("kind", String(20), nullable=False),
    Column("app_id", String(64), nullable=False),
    Column("selection", JSON, nullable=False),
    Column("options", JSON, nullable=False),
    Column("status", String(20), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Column("batch_id", String(36)),
    Column("run_id", String(36)),
    Column("documents_done", BigInteger, nullable=False),
    Column("documents_total", BigInteger),
    Column("bytes_written", BigInteger, nullable=False),
    Column("result_uri", Text),
    Column("result_bytes", BigInteger),
    Column("result_sha256", String(64)),
    Column("error_code", String(40)),
    Column("error_message", Text),
    Column("idempotency_key", String(200)),
    Column("fingerprint", String(64)),  # of what is asked for; empty where no other request may join
    Column("lease_until", UtcDateTime),  # a running one's worker moves it on; see leases.py
    Column("not_before", UtcDateTime),  # an automatic retry waits until then
    Column("retries", Integer, nullable=False, server_default="0"),  # automatic ones, since the last by hand
    Column("company", Integer),  # the most requests that may share its next batch; empty: any number
    Column("keep_seconds", BigInteger),  # how long its package is kept; empty: as the settings say
    Column("progress", JSON),  # see progress.py
    Index("export_requests_by_status", "status", "priority", "requested_at"),
    Index("export_requests_by_batch", "batch_id"),
    Index("export_requests_by_app", "app_id", "requested_at"),
    Index("export_requests_by_idempotency_key", "app_id", "idempotency_key", unique=True),
    Index(
        "export_requests_live_by_fingerprint",
        "fingerprint",
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    ),
)

# Triggers of the migration keep it from being changed: what happened, happened.
request_events = Table(
    "request_events",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("request_id", String(36), ForeignKey("export_requests.id"), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("event", String(40), nullable=False),
    Column("detail", Text),
)

kept_secrets = Table(
    "kept_secrets",
    metadata,
    Column("owner", String(36), primary_key=True),  # the id of a request or a batch
    Column("secret", Text, nullable=False),
    Column("kept_at", UtcDateTime, nullable=False),
)

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("app_id", String(64), nullable=False),  # '*': all apps
    Column("role", String(20), nullable=False),
    Column("label", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
)

download_links = Table(
    "download_links",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("request_id", String(36), ForeignKey("export_requests.id"), nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("one_time", Boolean, nullable=False),
    Column("used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

# Append-only, like request_events.
access_events = Table(
    "access_events",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(200), nullable=False),  # a token's or a link's id, never a secret
    Column("app_id", String(64)),
    Column("action", String(60), nullable=False),
    Column("target", String(36)),
    Column("status", Integer, nullable=False),
    Index("access_events_by_app", "app_id", "at"),
)

daily_usage = Table(
    "daily_usage",
    metadata,
    Column("day", Date, primary_key=True),
    Column("app_id", String(64), primary_key=True),
    Column("what", String(40), primary_key=True),
    Column("count", BigInteger, nullable=False),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("request_id", String(36), ForeignKey("export_requests.id"), nullable=False, index=True),
    Column("channel", String(10), nullable=False),  # mail or webhook
    Column("address", Text),  # forgotten once it has served
    Column("status", String(10), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_before", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("error", Text),
    Index("notifications_by_status", "status", "not_before"),
)

backup_schedules = Table(
    "backup_schedules",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("app_id", String(64), nullable=False),
    Column("cron", String(100), nullable=False),
    Column("time_zone", String(64), nullable=False),
    Column("options", JSON, nullable=False),
    Column("storage", Text),  # the root that its backups go to; empty: the installation's
    Column("retention", JSON, nullable=False),
    Column("full_every", Integer, nullable=False),  # 1: each backup is a full one
    Column("enabled", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", String(200), nullable=False),
    Column("served_until", UtcDateTime, nullable=False),  # the ticks up to then have had their backup
    Index("backup_schedules_by_app", "app_id"),
)

erasures = Table(
    "erasures",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("app_id", String(64), nullable=False),
    Column("selection_sha256", String(64), nullable=False),  # keyed: nobody finds a uid by trying all
    Column("status", String(20), nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("counted", JSON, nullable=False),  # documents by collection: of the dry run, then when it was confirmed
    Column("sealed_people", Text),  # from its confirmation to its end
    Column("history", JSON, nullable=False),
    Column("receipt", JSON),
)

# The ledger that a restore applies: whom a backup must not bring back.
erased_users = Table(
    "erased_users",
    metadata,
    Column("app_id", String(64), primary_key=True),
    Column("uid_hash", String(64), primary_key=True),
    Column("erasure_id", String(36), ForeignKey("erasures.id"), nullable=False),
    Column("key_check", String(64), nullable=False),  # tells under which key the hashes were made
    Column("erased_at", UtcDateTime),  # empty while the erasure is under way
)
