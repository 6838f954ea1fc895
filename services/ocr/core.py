"""Reads documents in Mistral's dialect; the relay does the work."""

from __future__ import annotations

from collections.abc import Sequence

from common.dialects.mistral_ocr import MistralOcr
from common.relay import Relay
from common.reply import Reply
from common.request import Call


class Ocr:
    """Has documents read through ``relay``; ``default_model`` is that of requests that name none."""

    def __init__(self, relay: Relay, *, default_model: str) -> None:
        self._relay = relay
        self._dialect = MistralOcr(default_model=default_model)

    async def process(self, body: bytes | memoryview, *, call: Call, reply: Reply) -> Sequence[bytes]:
        """Answer Mistral's request ``body``; see ``Relay.answer``."""
        return await self._relay.answer(body, dialect=self._dialect, call=call, reply=reply)
