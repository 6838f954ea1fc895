"""The baseline: a bare grpc.aio handler that answers every chat with one constant: python -m bench.bare PORT."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Final

import grpc
import uvloop
from google.api.httpbody_pb2 import HttpBody

from bench.messages import ANSWER
from common.serving.interceptor import Context
from common.serving.server import SERVER_OPTIONS
from turnpike.chat.v1 import chat_http_pb2_grpc

_CONSTANT: Final = HttpBody(content_type="application/json", data=ANSWER)


class _Bare(chat_http_pb2_grpc.ChatHttpServiceServicer):
    """Looks at nothing and asks nobody."""

    async def CreateChatCompletion(  # noqa: N802 - the RPC's name
        self, request: HttpBody, context: Context
    ) -> AsyncIterator[HttpBody]:
        yield _CONSTANT


async def serve(port: int) -> None:
    """Serve on the port, with the options that every service has, until the process is ended."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    chat_http_pb2_grpc.add_ChatHttpServiceServicer_to_server(_Bare(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
