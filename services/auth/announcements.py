"""What is heard of other processes' revocations."""

from __future__ import annotations

import asyncio


class Announcements:
    """What is heard for a while: ``works`` says whether anything would be, ``lost`` that the connection has ended."""

    def __init__(self) -> None:
        self.works = False
        self.lost = False
        self._heard = asyncio.Event()

    def announce(self, *_: object) -> None:
        """Wake who waits."""
        self._heard.set()

    def lose(self, *_: object) -> None:
        """Wake who waits, because nothing will be heard any more."""
        self.lost = True
        self._heard.set()

    async def wait(self, *, seconds: float) -> bool:
        """Wait for an announcement, at most so long; say whether there was one since the last wait."""
        try:
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        except TimeoutError:
            return False
        self._heard.clear()
        return True
