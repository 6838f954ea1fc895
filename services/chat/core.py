"""Completes chats: the relay does the work, in OpenAI's dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.dialects.openai_chat import OpenAIChat
from common.relay import Relay
from common.reply import Reply
from common.request import Call

_OPENAI_CHAT: Final = OpenAIChat()


class Chat:
    """Completes chats through ``relay``."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def complete(self, body: bytes | memoryview, *, call: Call, reply: Reply) -> Sequence[bytes]:
        """Answer OpenAI's request ``body``; see ``Relay.answer``."""
        return await self._relay.answer(body, dialect=_OPENAI_CHAT, call=call, reply=reply)
