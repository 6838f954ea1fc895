"""The tables of the auth service; migrations/ brings a database to this state."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A time with a zone in Python and in PostgreSQL; UTC without one in SQLite, which has no type for zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Return the time as the database keeps it."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Return the time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA: Final = sa.MetaData()

API_TOKENS: Final = sa.Table(
    "api_tokens",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(256), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("token_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("prefix", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("last_used_at", UtcDateTime),
    sa.Column("expires_at", UtcDateTime),
    sa.Index("api_tokens_token_hash", "token_hash", unique=True),
    sa.Index("api_tokens_user_id_created_at", "user_id", "created_at"),
)

# Several processes on one database tell each other through this table which tokens were revoked.
REVOCATIONS: Final = sa.Table(
    "revocations",
    METADATA,
    sa.Column("token_id", sa.String(64), primary_key=True),
    sa.Column("revoked_at", UtcDateTime, nullable=False),
    sa.Index("revocations_revoked_at", "revoked_at"),
)
