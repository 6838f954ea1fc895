"""API tokens in PostgreSQL, for any number of processes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.announcements import Announcements
from services.auth.database import away_when_it_fails
from services.auth.notifications import announce, listening
from services.auth.schema import API_TOKENS, REVOCATIONS, UtcDateTime
from services.auth.store import StoredToken, too_many

_ROWS_IN_ONE_WRITE: Final = 1000


class PostgresqlTokenStore:
    """Keeps tokens in the database of ``engine``, whose tables must be there (see migrations/).

    Processes that share it go by the database's clock.
    """

    shared = True

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, token: StoredToken, *, at_most: int) -> None:
        """Add a token; raises InvalidRequest when the user has ``at_most`` tokens already."""
        async with self._transaction() as connection:
            # One at a time for each user, so that the count below is exact.
            user = sa.func.hashtextextended(token.user_id, 0)
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(user)))
            await connection.execute(sa.insert(API_TOKENS).values(asdict(token) | {"scopes": list(token.scopes)}))
            count = sa.select(sa.func.count()).where(API_TOKENS.c.user_id == token.user_id)
            if (await connection.execute(count)).scalar_one() > at_most:
                raise too_many(at_most)

    async def of_user(self, user_id: str) -> Sequence[StoredToken]:
        """Return the user's tokens, newest first."""
        query = (
            sa.select(API_TOKENS)
            .where(API_TOKENS.c.user_id == user_id)
            .order_by(API_TOKENS.c.created_at.desc(), API_TOKENS.c.id.desc())
        )
        async with self._transaction() as connection:
            return [_token(row) for row in (await connection.execute(query)).mappings()]

    async def by_hash(self, token_hash: bytes) -> StoredToken | None:
        """Return the token with this hash; knowing its secret is what identifies the caller."""
        query = sa.select(API_TOKENS).where(API_TOKENS.c.token_hash == token_hash)
        async with self._transaction() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return _token(row) if row is not None else None

    async def remove(self, token_id: str, *, user_id: str) -> bool:
        """Remove the user's token and note its revocation; False when the user has no such token."""
        own = (API_TOKENS.c.id == token_id) & (API_TOKENS.c.user_id == user_id)
        async with self._transaction() as connection:
            if (await connection.execute(sa.delete(API_TOKENS).where(own))).rowcount == 0:
                return False
            await connection.execute(sa.insert(REVOCATIONS).values(token_id=token_id, revoked_at=_clock()))
            await announce(connection)
        return True

    async def record_uses(self, uses: Mapping[str, datetime]) -> None:
        """Set when tokens were last used, by token id; never back to an earlier time."""
        last = API_TOKENS.c.last_used_at
        used_at = sa.bindparam("used_at", type_=UtcDateTime)
        update = (
            sa.update(API_TOKENS)
            .where((API_TOKENS.c.id == sa.bindparam("used_id")) & (last.is_(None) | (last < used_at)))
            .values(last_used_at=used_at)
        )
        # In the order of their ids, so that two processes which write the same rows do not block each other for good.
        rows = iter([{"used_id": token_id, "used_at": at} for token_id, at in sorted(uses.items())])
        while batch := list(islice(rows, _ROWS_IN_ONE_WRITE)):
            async with self._transaction() as connection:
                await connection.execute(update, batch)

    @contextlib.asynccontextmanager
    async def announcements(self) -> AsyncIterator[Announcements]:
        """Hear of revocations, those by other processes too, for as long as the block lasts."""
        with away_when_it_fails():
            async with listening(self._engine) as announcements:
                yield announcements

    async def recent_revocations(self, *, seconds: float) -> Sequence[str]:
        """Return the ids of the tokens that were revoked in the last ``seconds``."""
        query = sa.select(REVOCATIONS.c.token_id).where(REVOCATIONS.c.revoked_at > _clock(seconds_ago=seconds))
        async with self._transaction() as connection:
            return list((await connection.execute(query)).scalars())

    async def forget_revocations(self, *, seconds: float) -> None:
        """Drop the notes of revocations that are older than ``seconds``."""
        old = REVOCATIONS.c.revoked_at <= _clock(seconds_ago=seconds)
        async with self._transaction() as connection:
            await connection.execute(sa.delete(REVOCATIONS).where(old))

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with away_when_it_fails():
            async with self._engine.begin() as connection:
                yield connection


def _clock(*, seconds_ago: float = 0.0) -> sa.ColumnElement[Any]:
    return sa.func.clock_timestamp(type_=UtcDateTime) - sa.literal(timedelta(seconds=seconds_ago), sa.Interval)


def _token(row: sa.RowMapping) -> StoredToken:
    return StoredToken(**{**row, "scopes": tuple(row["scopes"])})
