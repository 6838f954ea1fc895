"""Tells everybody who watches which tokens were revoked, here or in another process on the same database."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from common.background import BackgroundLoop, Health
from common.errors import Unavailable
from services.auth.store import TokenStore

_WAITING_AT_MOST: Final = 1000
_ANNOUNCED_SECONDS: Final = 1.0
"""The pause between two polls of a store that announces revocations, in case that it forgets one."""
# In usual pauses: a database that is away is not asked, and its absence not logged, twenty times a second.
_PAUSE_AFTER_FAILURE: Final = 20
_PAUSE_AT_MOST_SECONDS: Final = 0.5
"""The longest of these pauses: a connection may also be lost while others still revoke."""


class _Watcher:
    """The ids that one watch has yet to send."""

    def __init__(self) -> None:
        self.waiting: deque[str] = deque()
        self.changed = asyncio.Event()
        self.broken = False

    def add(self, token_ids: Iterable[str]) -> None:
        self.waiting.extend(token_ids)
        if len(self.waiting) > _WAITING_AT_MOST:
            self.break_off()
        self.changed.set()

    def break_off(self) -> None:
        self.broken = True
        self.waiting.clear()
        self.changed.set()


class Revocations:
    """Broadcasts revoked token ids to its watchers.

    Where the store is shared, it is asked what others revoked, while somebody watches: when it announces that there is
    something, and every ``poll_seconds`` when its announcements do not arrive. Each time it is asked about the last
    ``overlap_seconds``: a revocation whose transaction ended late is found a little later and not missed. The overlap
    must be longer than services cache a principal. ``health`` shows polls that keep failing.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        poll_seconds: float = 0.025,
        overlap_seconds: float = 60.0,
        health: Health | None = None,
    ) -> None:
        self._store = store
        self._health = health
        self._poll_seconds = poll_seconds
        self._overlap_seconds = overlap_seconds
        self._watchers: set[_Watcher] = set()
        # What the last poll returned: an id that has left the overlap never comes back, so more need not be known.
        self._seen: frozenset[str] = frozenset()
        self._polling: BackgroundLoop | None = None
        self._failures = 0
        self._closed = False

    @property
    def watchers(self) -> int:
        """How many watch at the moment."""
        return len(self._watchers)

    def publish(self, token_ids: Iterable[str]) -> None:
        """Tell all watchers; returns at once."""
        ids = tuple(token_ids)
        for watcher in self._watchers:
            watcher.add(ids)

    async def watch(self) -> AsyncGenerator[tuple[str, ...], None]:
        """Yield an empty batch at once and then batches of revoked ids; raises Unavailable when the reader is too slow.

        Whatever is revoked after the first batch was yielded is in a later one. Ends after ``close``.
        """
        watcher = _Watcher()
        await self._enter(watcher)
        try:
            yield ()
            while True:
                await watcher.changed.wait()
                watcher.changed.clear()
                if watcher.broken:
                    raise Unavailable("The watch may have missed something; start it again.", code="watch_broken")
                if watcher.waiting:
                    batch = tuple(watcher.waiting)
                    watcher.waiting.clear()
                    yield batch
                if self._closed:
                    return
        finally:
            await self._leave(watcher)

    def close(self) -> None:
        """End all watches, after what they still have to send."""
        self._closed = True
        for watcher in self._watchers:
            watcher.changed.set()

    async def poll(self) -> None:
        """Ask the store once, and tell the watchers what is new; raises Unavailable."""
        recent = frozenset(await self._store.recent_revocations(seconds=self._overlap_seconds))
        new = recent - self._seen
        self._seen = recent
        if new:
            self.publish(sorted(new))

    async def _enter(self, watcher: _Watcher) -> None:
        if self._closed:
            raise Unavailable("The auth service is stopping.", code="stopping")
        self._watchers.add(watcher)
        if self._store.shared and self._polling is None:
            self._polling = BackgroundLoop(
                "poll of revocations", self._poll_until_lost, interval_seconds=0, health=self._health
            )
            self._polling.failures = self._failures
            await self._polling.__aenter__()

    async def _leave(self, watcher: _Watcher) -> None:
        self._watchers.discard(watcher)
        if not self._watchers and self._polling is not None:
            polling, self._polling = self._polling, None
            # The next watch begins where this one ended, so that a poll that always fails is seen to do so.
            self._failures = polling.failures
            # Waited for, so that the connection is back when whoever watched goes on.
            await polling.__aexit__()

    async def _poll_until_lost(self) -> None:
        try:
            async with self._store.announcements() as announcements:
                pause = _ANNOUNCED_SECONDS if announcements.works else self._poll_seconds
                while not announcements.lost:
                    await self.poll()
                    if self._polling is not None:
                        self._polling.succeeded()
                    await announcements.wait(seconds=pause)
        except Unavailable:
            # While the database is away nobody can revoke, and services forget what they know within seconds.
            await asyncio.sleep(min(self._poll_seconds * _PAUSE_AFTER_FAILURE, _PAUSE_AT_MOST_SECONDS))
        except Exception:
            # A mistake of ours. Who watches starts again and forgets what it knew.
            for watcher in self._watchers:
                watcher.break_off()
            raise
