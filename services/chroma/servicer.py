"""Protobuf in, protobuf out: the two faces of the Chroma service."""

from __future__ import annotations

from typing import Final

from common.errors import InvalidRequest, PayloadTooLarge, chroma_body
from common.identity.principal import Scope
from common.reply import Collected
from common.request import current_call
from common.serving.auth import CREDENTIAL_HEADERS
from common.serving.http_body import BodyView, HttpReply
from common.serving.interceptor import Context
from common.serving.routes import Route
from common.settings import MAX_BODY_BYTES
from services.chroma.core import PATH, Chroma, ChromaRequest
from turnpike.chroma.v1 import (
    chroma_http_pb2,  # noqa: F401 - its descriptor is looked up by name
    chroma_http_pb2_grpc,
    chroma_pb2,
    chroma_pb2_grpc,
)

ROUTES: Final = (
    Route("/turnpike.chroma.v1.ChromaService/Forward", Scope("chroma")),
    Route(
        "/turnpike.chroma.v1.ChromaHttpService/Forward", Scope("chroma"), passed_through=True, error_body=chroma_body
    ),
)
CREDENTIALS: Final = (*CREDENTIAL_HEADERS, "x-chroma-token")
"""Where a credential may stand; chromadb's token provider sends the last one when it is told to."""


class ChromaHttpServicer(chroma_http_pb2_grpc.ChromaHttpServiceServicer):
    """Passes Chroma's bytes through."""

    def __init__(self, chroma: Chroma) -> None:
        self._chroma = chroma

    async def Forward(self, request: BodyView, context: Context) -> bytes:  # type: ignore[override] # passed through
        """Answer with a status, and the body in slices."""
        call = current_call()
        target = call.metadata.get("x-envoy-original-path", "")
        if not target.startswith(PATH):
            raise InvalidRequest("This RPC is for HTTP through the edge: gRPC callers have ChromaService.")
        reply = HttpReply(call, context)
        forwarded = ChromaRequest(call.method, target[len(PATH) :], request.data)
        return await reply.end(await self._chroma.answer(forwarded, call=call, reply=reply))


class _Message(Collected):
    """A reply that is kept until it is complete, of a size that a message may have."""

    def __init__(self) -> None:
        super().__init__()
        self._size = 0

    async def write(self, piece: bytes) -> None:
        """Keep the piece; raises PayloadTooLarge."""
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            raise PayloadTooLarge("The answer is larger than 32 MiB: ask for fewer records with 'limit'.")
        await super().write(piece)


class ChromaServicer(chroma_pb2_grpc.ChromaServiceServicer):
    """Serves typed messages."""

    def __init__(self, chroma: Chroma) -> None:
        self._chroma = chroma

    async def Forward(self, request: chroma_pb2.ForwardRequest, context: Context) -> chroma_pb2.ForwardResponse:
        """Answer as over HTTP."""
        call = current_call()
        reply = _Message()
        forwarded = ChromaRequest(request.method, request.path, request.body)
        last = await self._chroma.answer(forwarded, call=call, reply=reply)
        head = reply.head
        await context.send_initial_metadata((("x-request-id", call.request_id), *head.headers.items()))
        return chroma_pb2.ForwardResponse(
            status=head.status, content_type=head.content_type, body=b"".join((*reply.pieces, last))
        )
