"""Protobuf in, protobuf out: the two faces of the chat service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Final

from google.api.httpbody_pb2 import HttpBody

from common.call import Context, current_call
from common.http_body import http_bodies, send_head
from common.passthrough import raise_for_status
from common.principal import Requirement, Scope
from services.chat import typed
from services.chat.core import Chat
from turnpike.chat.v1 import chat_http_pb2, chat_http_pb2_grpc, chat_pb2, chat_pb2_grpc

SERVICES: Final = (
    chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name,
    chat_http_pb2.DESCRIPTOR.services_by_name["ChatHttpService"].full_name,
)
REQUIREMENTS: Final[Mapping[str, Requirement]] = MappingProxyType(
    {
        "/turnpike.chat.v1.ChatService/CompleteChat": Scope("chat"),
        "/turnpike.chat.v1.ChatService/StreamChat": Scope("chat"),
        "/turnpike.chat.v1.ChatHttpService/CreateChatCompletion": Scope("chat"),
    }
)


class ChatHttpServicer(chat_http_pb2_grpc.ChatHttpServiceServicer):
    """Passes OpenAI's bytes through."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def CreateChatCompletion(self, request: HttpBody, context: Context) -> AsyncIterator[HttpBody]:
        """Answer with the upstream's status, headers and bytes."""
        call = current_call()
        async with self._chat.answer(request.data, call=call) as answer:
            async for body in http_bodies(answer, call, context):
                yield body


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """Serves typed messages."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def CompleteChat(
        self, request: chat_pb2.CompleteChatRequest, context: Context
    ) -> chat_pb2.CompleteChatResponse:
        """Answer with the whole completion."""
        call = current_call()
        async with self._chat.answer(typed.request_body(request.chat, stream=False), call=call) as answer:
            body = b"".join([piece async for piece in answer.pieces])
            raise_for_status(answer.status, body, answer.headers)
            await send_head(answer, call, context)
            return typed.completion(body)

    async def StreamChat(
        self, request: chat_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamChatResponse]:
        """Answer with each piece of the completion."""
        call = current_call()
        async with self._chat.answer(typed.request_body(request.chat, stream=True), call=call) as answer:
            if answer.status >= 400:
                body = b"".join([piece async for piece in answer.pieces])
                raise_for_status(answer.status, body, answer.headers)
            await send_head(answer, call, context)
            async for piece in answer.pieces:
                message = typed.stream_message(piece)
                if message is not None:
                    yield message
