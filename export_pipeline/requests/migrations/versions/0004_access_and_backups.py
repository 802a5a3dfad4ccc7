"""Tokens, links and who used them; notifications; schedules of backups; erasures and the ledger of the erased."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_MOMENT = sa.DateTime(timezone=True)
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_REFUSAL = "access_events only grows: its rows are neither changed nor removed"


def upgrade() -> None:
    """Apply."""
    _access()
    _notifications()
    _backups()
    if op.get_bind().dialect.name == "postgresql":
        _only_grows_on_postgresql()
    else:
        _only_grows_on_sqlite()


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.String(36), primary_key=True)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, _MOMENT, nullable=nullable)


def _of_a_request() -> sa.Column[str]:
    return sa.Column("request_id", sa.String(36), sa.ForeignKey("export_requests.id"), nullable=False, index=True)


def _access() -> None:
    op.create_table(
        "access_tokens",
        _id(),
        sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("app_id", sa.String(64), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        _moment("created_at"),
        sa.Column("created_by", sa.String(200), nullable=False),
        _moment("expires_at", nullable=True),
        _moment("revoked_at", nullable=True),
        _moment("last_used_at", nullable=True),
    )
    op.create_table(
        "download_links",
        _id(),
        _of_a_request(),
        _moment("created_at"),
        sa.Column("created_by", sa.String(200), nullable=False),
        _moment("expires_at"),
        sa.Column("one_time", sa.Boolean, nullable=False),
        _moment("used_at", nullable=True),
        _moment("revoked_at", nullable=True),
    )
    op.create_table(
        "access_events",
        sa.Column("id", _NUMBER, primary_key=True, autoincrement=True),
        _moment("at"),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("app_id", sa.String(64)),
        sa.Column("action", sa.String(60), nullable=False),
        sa.Column("target", sa.String(36)),
        sa.Column("status", sa.Integer, nullable=False),
    )
    op.create_index("access_events_by_app", "access_events", ["app_id", "at"])
    op.create_table(
        "daily_usage",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("app_id", sa.String(64), primary_key=True),
        sa.Column("what", sa.String(40), primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
    )


def _notifications() -> None:
    op.create_table(
        "notifications",
        _id(),
        _of_a_request(),
        sa.Column("channel", sa.String(10), nullable=False),
        sa.Column("address", sa.Text),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        _moment("not_before", nullable=True),
        _moment("created_at"),
        _moment("updated_at"),
        sa.Column("error", sa.Text),
    )
    op.create_index("notifications_by_status", "notifications", ["status", "not_before"])


def _backups() -> None:
    op.create_table(
        "backup_schedules",
        _id(),
        sa.Column("app_id", sa.String(64), nullable=False),
        sa.Column("cron", sa.String(100), nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("storage", sa.Text),
        sa.Column("retention", sa.JSON, nullable=False),
        sa.Column("full_every", sa.Integer, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        _moment("created_at"),
        sa.Column("created_by", sa.String(200), nullable=False),
        _moment("updated_at"),
        sa.Column("updated_by", sa.String(200), nullable=False),
        _moment("served_until"),
    )
    op.create_index("backup_schedules_by_app", "backup_schedules", ["app_id"])
    op.create_table(
        "erasures",
        _id(),
        sa.Column("app_id", sa.String(64), nullable=False),
        sa.Column("selection_sha256", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("requested_by", sa.String(200), nullable=False),
        _moment("requested_at"),
        _moment("finished_at", nullable=True),
        sa.Column("counted", sa.JSON, nullable=False),
        sa.Column("sealed_people", sa.Text),
        sa.Column("history", sa.JSON, nullable=False),
        sa.Column("receipt", sa.JSON),
    )
    op.create_table(
        "erased_users",
        sa.Column("app_id", sa.String(64), primary_key=True),
        sa.Column("uid_hash", sa.String(64), primary_key=True),
        sa.Column("erasure_id", sa.String(36), sa.ForeignKey("erasures.id"), nullable=False),
        sa.Column("key_check", sa.String(64), nullable=False),
        _moment("erased_at", nullable=True),
    )


def _only_grows_on_sqlite() -> None:
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER access_events_no_{change.lower()} BEFORE {change} ON access_events "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        )


def _only_grows_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION access_events_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER access_events_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON access_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION access_events_only_grows()"
    )
