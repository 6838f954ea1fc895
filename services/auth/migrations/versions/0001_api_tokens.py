"""Creates the tables of API tokens and of revocations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the database to this revision."""
    # Spelled out, not taken from schema.py: a revision stays what it was when the schema goes on.
    time = sa.DateTime(timezone=True)
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("token_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("last_used_at", time),
        sa.Column("expires_at", time),
    )
    op.create_index("api_tokens_token_hash", "api_tokens", ["token_hash"], unique=True)
    op.create_index("api_tokens_user_id_created_at", "api_tokens", ["user_id", "created_at"])
    op.create_table(
        "revocations",
        sa.Column("token_id", sa.String(64), primary_key=True),
        sa.Column("revoked_at", time, nullable=False),
    )
    op.create_index("revocations_revoked_at", "revocations", ["revoked_at"])


def downgrade() -> None:
    """Bring the database back to the revision before."""
    op.drop_table("revocations")
    op.drop_table("api_tokens")
