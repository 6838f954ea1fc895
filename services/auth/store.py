"""Where API tokens live: the interface, and the store that keeps none."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from common.errors import InvalidRequest, Unavailable
from services.auth.announcements import Announcements


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


def away() -> Unavailable:
    """Return the error of every method while the database is away."""
    return Unavailable("The token store is not available; try again.", code="token_store_unavailable")


def too_many(at_most: int) -> InvalidRequest:
    """Return the error of a user who has as many tokens as there may be."""
    return InvalidRequest(
        f"You have {at_most} API tokens, the most there may be; delete one first.", code="too_many_tokens"
    )
