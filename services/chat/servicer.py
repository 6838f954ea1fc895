"""Protobuf in, protobuf out: the two faces of the chat service."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from common.dialects.upstream_errors import raise_for_status
from common.identity.principal import Scope
from common.reply import Collected
from common.request import Call, current_call
from common.serving.http_body import BodyView, HttpReply, send_head, sent
from common.serving.interceptor import Context
from common.serving.routes import Route
from services.chat import typed
from services.chat.core import Chat
from turnpike.chat.v1 import (
    chat_http_pb2,  # noqa: F401 - its descriptor is looked up by name
    chat_http_pb2_grpc,
    chat_pb2,
    chat_pb2_grpc,
)

ROUTES: Final = (
    Route("/turnpike.chat.v1.ChatService/CompleteChat", Scope("chat")),
    Route("/turnpike.chat.v1.ChatService/StreamChat", Scope("chat")),
    Route("/turnpike.chat.v1.ChatHttpService/CreateChatCompletion", Scope("chat"), passed_through=True),
)


class ChatHttpServicer(chat_http_pb2_grpc.ChatHttpServiceServicer):
    """Passes OpenAI's bytes through."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def CreateChatCompletion(  # type: ignore[override] # passed through
        self, request: BodyView, context: Context
    ) -> bytes:
        """Answer with the upstream's status, headers and bytes."""
        call = current_call()
        reply = HttpReply(call, context)
        return await reply.end_events(await self._chat.complete(request.data, call=call, reply=reply))


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """Serves typed messages."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def CompleteChat(
        self, request: chat_pb2.CompleteChatRequest, context: Context
    ) -> chat_pb2.CompleteChatResponse:
        """Answer with the whole completion."""
        call = current_call()
        reply = Collected()
        request_body = typed.request_body(request.chat, stream=False)
        body = reply.body(await self._chat.complete(request_body, call=call, reply=reply))
        raise_for_status(reply.head.status, body, reply.head.headers)
        await send_head(reply.head, call, context)
        return typed.completion(body)

    async def StreamChat(  # type: ignore[override] # the stubs know generators only, the runtime coroutines that write, too
        self, request: chat_pb2.StreamChatRequest, context: Context
    ) -> None:
        """Answer with each piece of the completion."""
        call = current_call()
        reply = _TypedReply(call, context)
        request_body = typed.request_body(request.chat, stream=True)
        await reply.end(await self._chat.complete(request_body, call=call, reply=reply))


class _TypedReply(Collected):
    """Sends each event as a typed message; an error's body is kept and raised at its end."""

    def __init__(self, call: Call, context: Context) -> None:
        super().__init__()
        self._call = call
        self._context = context
        self._begun = False

    async def write_events(self, events: Sequence[bytes]) -> None:
        """Send each event's message, if it has one."""
        for event in events:
            message = typed.stream_message(event)
            if message is None:
                continue
            if not self._begun:
                self._begun = True
                await send_head(self.head, self._call, self._context)
            await sent(message, self._context)

    async def end(self, last: Sequence[bytes]) -> None:
        """Send the last events' messages, or raise the error that the answer is."""
        if self.head.status < HTTPStatus.BAD_REQUEST:
            await self.write_events(last)
        raise_for_status(self.head.status, self.body(last), self.head.headers)
