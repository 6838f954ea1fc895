"""Where API tokens live: SQLite or PostgreSQL, one code for both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from common.errors import InvalidRequest, Unavailable
from services.auth.announcements import Announcements, announce, listening
from services.auth.database import away, away_when_it_fails
from services.auth.schema import API_TOKENS, REVOCATIONS, UtcDateTime

_ROWS_IN_ONE_WRITE: Final = 1000


@dataclass(frozen=True, slots=True)
class StoredToken:
    """An API token as it is kept: without its secret. Times are in UTC."""

    id: str
    user_id: str
    name: str
    scopes: tuple[str, ...]
    token_hash: bytes
    prefix: str
    created_at: datetime
    last_used_at: datetime | None = None
    expires_at: datetime | None = None


class TokenStore(Protocol):
    """Keeps API tokens. Every method raises Unavailable while the database is away."""

    @property
    def shared(self) -> bool:
        """Whether other processes may revoke tokens in this store."""

    async def add(self, token: StoredToken, *, at_most: int) -> None:
        """Add a token; raises InvalidRequest when the user has ``at_most`` tokens already."""

    async def of_user(self, user_id: str) -> Sequence[StoredToken]:
        """Return the user's tokens, newest first."""

    async def by_hash(self, token_hash: bytes) -> StoredToken | None:
        """Return the token with this hash; knowing its secret is what identifies the caller."""

    async def remove(self, token_id: str, *, user_id: str) -> bool:
        """Remove the user's token and note its revocation; False when the user has no such token."""

    async def record_uses(self, uses: Mapping[str, datetime]) -> None:
        """Set when tokens were last used, by token id; never back to an earlier time."""

    def announcements(self) -> AbstractAsyncContextManager[Announcements]:
        """Hear of revocations, those by other processes too, for as long as the block lasts."""

    async def recent_revocations(self, *, seconds: float) -> Sequence[str]:
        """Return the ids of the tokens that were revoked in the last ``seconds``."""

    async def forget_revocations(self, *, seconds: float) -> None:
        """Drop the notes of revocations that are older than ``seconds``."""


class NullTokenStore:
    """Has no tokens and takes none: for a gateway that knows JWTs and static keys only."""

    shared = False

    async def add(self, token: StoredToken, *, at_most: int) -> None:
        """Refuse the token; raises Unavailable."""
        raise Unavailable("This gateway keeps no API tokens.", code="no_token_store")

    async def of_user(self, user_id: str) -> Sequence[StoredToken]:
        """Return no tokens."""
        return ()

    async def by_hash(self, token_hash: bytes) -> StoredToken | None:
        """Return None."""
        return None

    async def remove(self, token_id: str, *, user_id: str) -> bool:
        """Return False."""
        return False

    async def record_uses(self, uses: Mapping[str, datetime]) -> None:
        """Do nothing."""

    @contextlib.asynccontextmanager
    async def announcements(self) -> AsyncIterator[Announcements]:
        """Hear nothing."""
        yield Announcements()

    async def recent_revocations(self, *, seconds: float) -> Sequence[str]:
        """Return nothing."""
        return ()

    async def forget_revocations(self, *, seconds: float) -> None:
        """Do nothing."""


class FakeTokenStore:
    """Keeps tokens in memory, for tests; while ``away`` is set every method raises Unavailable."""

    def __init__(self, *, now: Callable[[], datetime], shared: bool = False, announced: bool = False) -> None:
        self.shared = shared
        self.announced = announced
        self.away = False
        self.tokens: dict[str, StoredToken] = {}
        self.revoked: dict[str, datetime] = {}
        self.looked_up: list[bytes] = []
        self.written: list[dict[str, datetime]] = []
        self.listening: list[Announcements] = []
        self._now = now

    async def add(self, token: StoredToken, *, at_most: int) -> None:
        """Add a token; raises InvalidRequest when the user has ``at_most`` tokens already."""
        if len(await self.of_user(token.user_id)) >= at_most:
            raise _too_many(at_most)
        self.tokens[token.id] = token

    async def of_user(self, user_id: str) -> Sequence[StoredToken]:
        """Return the user's tokens, newest first."""
        self._check()
        own = [token for token in self.tokens.values() if token.user_id == user_id]
        return sorted(own, key=lambda token: (token.created_at, token.id), reverse=True)

    async def by_hash(self, token_hash: bytes) -> StoredToken | None:
        """Return the token with this hash."""
        self._check()
        self.looked_up.append(token_hash)
        return next((token for token in self.tokens.values() if token.token_hash == token_hash), None)

    async def remove(self, token_id: str, *, user_id: str) -> bool:
        """Remove the user's token; False when the user has no such token."""
        self._check()
        if token_id not in self.tokens or self.tokens[token_id].user_id != user_id:
            return False
        del self.tokens[token_id]
        self.revoked[token_id] = self._now()
        if self.announced:
            for announcements in self.listening:
                announcements.announce()
        return True

    async def record_uses(self, uses: Mapping[str, datetime]) -> None:
        """Set when tokens were last used."""
        self._check()
        self.written.append(dict(uses))
        for token_id in uses.keys() & self.tokens.keys():
            self.tokens[token_id] = replace(self.tokens[token_id], last_used_at=uses[token_id])

    @contextlib.asynccontextmanager
    async def announcements(self) -> AsyncIterator[Announcements]:
        """Hear of what ``remove`` does, if ``announced`` is set."""
        self._check()
        announcements = Announcements()
        announcements.works = self.announced
        self.listening.append(announcements)
        try:
            yield announcements
        finally:
            self.listening.remove(announcements)

    async def recent_revocations(self, *, seconds: float) -> Sequence[str]:
        """Return the ids of the tokens that were revoked in the last ``seconds``."""
        self._check()
        earliest = self._now() - timedelta(seconds=seconds)
        return [token_id for token_id, at in self.revoked.items() if at > earliest]

    async def forget_revocations(self, *, seconds: float) -> None:
        """Drop the notes of revocations that are older than ``seconds``."""
        self._check()
        earliest = self._now() - timedelta(seconds=seconds)
        self.revoked = {token_id: at for token_id, at in self.revoked.items() if at > earliest}

    def _check(self) -> None:
        if self.away:
            raise away()


class SqlTokenStore:
    """Keeps tokens in the database of ``engine``, whose tables must be there (see migrations/).

    ``now`` is asked on SQLite only: processes that share a PostgreSQL go by the database's clock.
    """

    def __init__(self, engine: AsyncEngine, *, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now
        self.shared = engine.dialect.name == "postgresql"

    async def add(self, token: StoredToken, *, at_most: int) -> None:
        """Add a token; raises InvalidRequest when the user has ``at_most`` tokens already."""
        async with self._transaction() as connection:
            if self.shared:
                # One at a time for each user, so that the count below is exact. SQLite has one writer anyway.
                user = sa.func.hashtextextended(token.user_id, 0)
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(user)))
            await connection.execute(sa.insert(API_TOKENS).values(asdict(token) | {"scopes": list(token.scopes)}))
            count = sa.select(sa.func.count()).where(API_TOKENS.c.user_id == token.user_id)
            if (await connection.execute(count)).scalar_one() > at_most:
                raise _too_many(at_most)

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
            await connection.execute(sa.insert(REVOCATIONS).values(token_id=token_id, revoked_at=self._clock()))
            if self.shared:
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
        """Hear of revocations, those by other processes too, for as long as the block lasts; on PostgreSQL only."""
        with away_when_it_fails():
            async with listening(self._engine) as announcements:
                yield announcements

    async def recent_revocations(self, *, seconds: float) -> Sequence[str]:
        """Return the ids of the tokens that were revoked in the last ``seconds``."""
        query = sa.select(REVOCATIONS.c.token_id).where(REVOCATIONS.c.revoked_at > self._clock(seconds_ago=seconds))
        async with self._transaction() as connection:
            return list((await connection.execute(query)).scalars())

    async def forget_revocations(self, *, seconds: float) -> None:
        """Drop the notes of revocations that are older than ``seconds``."""
        old = REVOCATIONS.c.revoked_at <= self._clock(seconds_ago=seconds)
        async with self._transaction() as connection:
            await connection.execute(sa.delete(REVOCATIONS).where(old))

    def _clock(self, *, seconds_ago: float = 0.0) -> sa.ColumnElement[Any]:
        ago = timedelta(seconds=seconds_ago)
        if self.shared:
            return sa.func.clock_timestamp(type_=UtcDateTime) - sa.literal(ago, sa.Interval)
        return sa.literal(self._now() - ago, UtcDateTime)

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with away_when_it_fails():
            async with self._engine.begin() as connection:
                yield connection


def _token(row: sa.RowMapping) -> StoredToken:
    return StoredToken(**{**row, "scopes": tuple(row["scopes"])})


def _too_many(at_most: int) -> InvalidRequest:
    return InvalidRequest(
        f"You have {at_most} API tokens, the most there may be; delete one first.", code="too_many_tokens"
    )
