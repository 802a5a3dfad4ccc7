"""Joining, leases, automatic retries, progress by collection, retention by request; a history that only grows."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_LIVE = sa.text("status IN ('pending', 'running')")
_REFUSAL = "request_events only grows: its rows are neither changed nor removed"


def upgrade() -> None:
    """Apply."""
    moment = sa.DateTime(timezone=True)
    for column in (
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("lease_until", moment),
        sa.Column("not_before", moment),
        sa.Column("retries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("company", sa.Integer),
        sa.Column("keep_seconds", sa.BigInteger),
        sa.Column("progress", sa.JSON),
    ):
        op.add_column("export_requests", column)
    # What had failed by then was to travel alone; the column says so from now on.
    op.execute(sa.text("UPDATE export_requests SET company = 1 WHERE attempt > 0"))
    op.create_index(
        "export_requests_live_by_fingerprint",
        "export_requests",
        ["fingerprint"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    if op.get_bind().dialect.name == "postgresql":
        _only_grows_on_postgresql()
    else:
        _only_grows_on_sqlite()


def _only_grows_on_sqlite() -> None:
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER request_events_no_{change.lower()} BEFORE {change} ON request_events "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        )


def _only_grows_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION request_events_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER request_events_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON request_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION request_events_only_grows()"
    )
