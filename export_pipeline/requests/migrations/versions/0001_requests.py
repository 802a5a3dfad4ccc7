"""The requests table and its events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Apply."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "export_requests",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("app_id", sa.String(64), nullable=False),
        sa.Column("selection", sa.JSON, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("requested_by", sa.String(200), nullable=False),
        sa.Column("requested_at", moment, nullable=False),
        sa.Column("due_at", moment),
        sa.Column("started_at", moment),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("finished_at", moment),
        sa.Column("expires_at", moment),
        sa.Column("batch_id", sa.String(36)),
        sa.Column("run_id", sa.String(36)),
        sa.Column("documents_done", sa.BigInteger, nullable=False),
        sa.Column("documents_total", sa.BigInteger),
        sa.Column("bytes_written", sa.BigInteger, nullable=False),
        sa.Column("result_uri", sa.Text),
        sa.Column("result_bytes", sa.BigInteger),
        sa.Column("result_sha256", sa.String(64)),
        sa.Column("error_code", sa.String(40)),
        sa.Column("error_message", sa.Text),
        sa.Column("idempotency_key", sa.String(200)),
    )
    op.create_index("export_requests_by_status", "export_requests", ["status", "priority", "requested_at"])
    op.create_index("export_requests_by_batch", "export_requests", ["batch_id"])
    op.create_index("export_requests_by_app", "export_requests", ["app_id", "requested_at"])
    op.create_index("export_requests_by_idempotency_key", "export_requests", ["app_id", "idempotency_key"], unique=True)
    op.create_table(
        "request_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(36), sa.ForeignKey("export_requests.id"), nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("detail", sa.Text),
    )
    op.create_index("ix_request_events_request_id", "request_events", ["request_id"])
