"""The baseline: a bare handler that answers every chat with one constant: python -m bench.bare PORT.

It runs on grpc.aio's own server or, with --services-runtime, on the one that the services run on.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, cast

import grpc
import uvloop
from google.api.httpbody_pb2 import HttpBody

from bench.messages import ANSWER
from common.serving.interceptor import Context
from common.serving.runtime import open_runtime
from common.serving.server import SERVER_OPTIONS
from deploy.local.config import HOST
from turnpike.chat.v1 import chat_http_pb2_grpc

_CONSTANT: Final = HttpBody(content_type="application/json", data=ANSWER)
_CALLS: Final = 4096


class _Bare(chat_http_pb2_grpc.ChatHttpServiceServicer):
    """Looks at nothing and asks nobody."""

    async def CreateChatCompletion(  # noqa: N802 - the RPC's name
        self, request: HttpBody, context: Context
    ) -> AsyncIterator[HttpBody]:
        yield _CONSTANT


class _Handlers:
    """Keeps the handlers that generated code registers."""

    def __init__(self) -> None:
        self.found: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Keep them."""
        self.found += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing: they are the same."""


async def serve(port: int) -> None:
    """Serve on grpc.aio's server, with the options that every service has, until the process is ended."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    chat_http_pb2_grpc.add_ChatHttpServiceServicer_to_server(_Bare(), server)
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    await server.wait_for_termination()


async def serve_on_runtime(port: int) -> None:
    """Serve on the services' own runtime until the process is ended."""
    handlers = _Handlers()
    chat_http_pb2_grpc.add_ChatHttpServiceServicer_to_server(_Bare(), cast(grpc.aio.Server, handlers))
    runtime = open_runtime(handlers.found[0], options=SERVER_OPTIONS, max_concurrent_rpcs=_CALLS)
    runtime.listen(f"{HOST}:{port}")
    await runtime.start()
    await runtime.ended()


if __name__ == "__main__":
    uvloop.run((serve_on_runtime if "--services-runtime" in sys.argv else serve)(int(sys.argv[1])))
