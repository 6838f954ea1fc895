"""A token store in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.auth.announcements import Announcements
from services.auth.store import StoredToken, away, too_many


class FakeTokenStore:
    """Keeps tokens in memory; while ``away`` is set every method raises Unavailable."""

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
            raise too_many(at_most)
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
