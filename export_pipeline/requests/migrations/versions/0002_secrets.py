"""Keys of slices and passphrases, for as long as they are needed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "kept_secrets",
        sa.Column("owner", sa.String(36), primary_key=True),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
    )
