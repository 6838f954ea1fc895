"""Keeps when tokens were last used without a write for each request."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Final

from common.background import BackgroundLoop, Health
from common.errors import Unavailable
from services.auth.store import TokenStore

_TOKENS_AT_MOST: Final = 50_000
_REVOCATIONS_KEPT_SECONDS: Final = 3600.0


class LastUse:
    """Collects uses in memory and writes them together.

    An async context manager: while it is open it writes every ``flush_seconds``, and once more at its end. A use beyond
    50,000 different tokens between two writes is not noted. ``health`` shows writes that keep failing.
    """

    def __init__(self, store: TokenStore, *, flush_seconds: float = 30.0, health: Health | None = None) -> None:
        self._store = store
        self._uses: dict[str, datetime] = {}
        self._loop = BackgroundLoop("last use of tokens", self._write, interval_seconds=flush_seconds, health=health)

    async def __aenter__(self) -> LastUse:
        """Start to write now and then."""
        await self._loop.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is left; it is lost when the store is away."""
        await self._loop.__aexit__()
        with contextlib.suppress(Unavailable):
            await self.flush()

    def note(self, token_id: str, at: datetime) -> None:
        """Note that a token was used; returns at once."""
        if token_id in self._uses or len(self._uses) < _TOKENS_AT_MOST:
            self._uses[token_id] = at

    async def flush(self) -> None:
        """Write the uses since the last time; raises Unavailable, and then keeps them for the next time."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await self._store.record_uses(uses)
        except BaseException:
            # Also when the write is cancelled at the service's end: the last flush then writes them.
            for token_id, at in self._uses.items():
                uses[token_id] = at
            self._uses = uses
            raise

    async def _write(self) -> None:
        # A store that is away says so in the log, and this process serves on without it what needs no token.
        with contextlib.suppress(Unavailable):
            await self.flush()
            await self._store.forget_revocations(seconds=_REVOCATIONS_KEPT_SECONDS)
