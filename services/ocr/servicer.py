"""Protobuf in, protobuf out: the two faces of the OCR service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Final

from google.api.httpbody_pb2 import HttpBody

from common.call import Context, current_call
from common.http_body import BodyView, body_view, http_bodies, send_head
from common.passthrough import raise_for_status
from common.principal import Requirement, Scope
from common.server import Deserializer
from services.ocr import typed
from services.ocr.core import Ocr
from turnpike.ocr.v1 import ocr_http_pb2, ocr_http_pb2_grpc, ocr_pb2, ocr_pb2_grpc

SERVICES: Final = (
    ocr_pb2.DESCRIPTOR.services_by_name["OcrService"].full_name,
    ocr_http_pb2.DESCRIPTOR.services_by_name["OcrHttpService"].full_name,
)
_PROCESS: Final = "/turnpike.ocr.v1.OcrHttpService/Process"
REQUIREMENTS: Final[Mapping[str, Requirement]] = MappingProxyType(
    {"/turnpike.ocr.v1.OcrService/ProcessDocument": Scope("ocr"), _PROCESS: Scope("ocr")}
)
DESERIALIZERS: Final[Mapping[str, Deserializer]] = MappingProxyType({_PROCESS: body_view})


class OcrHttpServicer(ocr_http_pb2_grpc.OcrHttpServiceServicer):
    """Passes Mistral's bytes through."""

    def __init__(self, ocr: Ocr) -> None:
        self._ocr = ocr

    async def Process(self, request: HttpBody | BodyView, context: Context) -> AsyncIterator[HttpBody]:
        """Answer with the upstream's status, headers and bytes."""
        call = current_call()
        async with self._ocr.answer(request.data, call=call) as answer:
            async for body in http_bodies(answer, call, context):
                yield body


class OcrServicer(ocr_pb2_grpc.OcrServiceServicer):
    """Serves typed messages."""

    def __init__(self, ocr: Ocr) -> None:
        self._ocr = ocr

    async def ProcessDocument(
        self, request: ocr_pb2.ProcessDocumentRequest, context: Context
    ) -> ocr_pb2.ProcessDocumentResponse:
        """Answer with the document's pages."""
        call = current_call()
        async with self._ocr.answer(typed.request_body(request), call=call) as answer:
            body = b"".join([piece async for piece in answer.pieces])
            raise_for_status(answer.status, body, answer.headers)
            await send_head(answer, call, context)
            return typed.response(body)
