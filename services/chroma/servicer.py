"""Protobuf in, protobuf out: the two faces of the Chroma service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Final

from google.api.httpbody_pb2 import HttpBody

from common.auth_interceptor import CREDENTIAL_HEADERS
from common.call import Call, Context, current_call
from common.errors import InvalidRequest
from common.principal import Requirement, Scope
from services.chroma.core import PATH, Chroma, ChromaAnswer, ChromaRequest
from turnpike.chroma.v1 import chroma_http_pb2, chroma_http_pb2_grpc, chroma_pb2, chroma_pb2_grpc

SERVICES: Final = (
    chroma_pb2.DESCRIPTOR.services_by_name["ChromaService"].full_name,
    chroma_http_pb2.DESCRIPTOR.services_by_name["ChromaHttpService"].full_name,
)
REQUIREMENTS: Final[Mapping[str, Requirement]] = MappingProxyType(
    {
        "/turnpike.chroma.v1.ChromaService/Forward": Scope("chroma"),
        "/turnpike.chroma.v1.ChromaHttpService/Forward": Scope("chroma"),
    }
)
CREDENTIALS: Final = (*CREDENTIAL_HEADERS, "x-chroma-token")
"""Where a credential may stand; chromadb's token provider sends the last one when it is told to."""
_SLICE: Final = 256 * 1024


class ChromaHttpServicer(chroma_http_pb2_grpc.ChromaHttpServiceServicer):
    """Passes Chroma's bytes through."""

    def __init__(self, chroma: Chroma) -> None:
        self._chroma = chroma

    async def Forward(self, request: HttpBody, context: Context) -> AsyncIterator[HttpBody]:
        """Answer with a status, and the body in slices."""
        call = current_call()
        target = call.metadata.get("x-envoy-original-path", "")
        if not target.startswith(PATH):
            raise InvalidRequest("This RPC is for HTTP through the edge: gRPC callers have ChromaService.")
        asked = ChromaRequest(call.method, target[len(PATH) :], request.data)
        answer = await self._chroma.answer(asked, call=call)
        await context.send_initial_metadata(_head(answer, call))
        body = b"" if call.method == "HEAD" else answer.body
        yield HttpBody(content_type=answer.content_type, data=body[:_SLICE])
        for start in range(_SLICE, len(body), _SLICE):
            yield HttpBody(data=body[start : start + _SLICE])


class ChromaServicer(chroma_pb2_grpc.ChromaServiceServicer):
    """Serves typed messages."""

    def __init__(self, chroma: Chroma) -> None:
        self._chroma = chroma

    async def Forward(self, request: chroma_pb2.ForwardRequest, context: Context) -> chroma_pb2.ForwardResponse:
        """Answer as over HTTP."""
        call = current_call()
        asked = ChromaRequest(request.method, request.path, request.body)
        answer = await self._chroma.answer(asked, call=call)
        await context.send_initial_metadata((("x-request-id", call.request_id), *answer.headers.items()))
        body = b"" if request.method == "HEAD" else answer.body
        return chroma_pb2.ForwardResponse(status=answer.status, content_type=answer.content_type, body=body)


def _head(answer: ChromaAnswer, call: Call) -> tuple[tuple[str, str], ...]:
    head = {**answer.headers, "x-request-id": call.request_id}
    if answer.status != 200:
        head["x-http-status"] = str(answer.status)
    return tuple(head.items())
