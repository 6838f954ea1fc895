"""Protobuf in, protobuf out: the two faces of the OCR service."""

from __future__ import annotations

from typing import Final

from common.dialects.upstream_errors import raise_for_status
from common.identity.principal import Scope
from common.reply import Collected
from common.request import current_call
from common.serving.http_body import BodyView, HttpReply, send_head
from common.serving.interceptor import Context
from common.serving.routes import Route
from services.ocr import typed
from services.ocr.core import Ocr
from turnpike.ocr.v1 import (
    ocr_http_pb2,  # noqa: F401 - its descriptor is looked up by name
    ocr_http_pb2_grpc,
    ocr_pb2,
    ocr_pb2_grpc,
)

ROUTES: Final = (
    Route("/turnpike.ocr.v1.OcrService/ProcessDocument", Scope("ocr")),
    Route("/turnpike.ocr.v1.OcrHttpService/Process", Scope("ocr"), passed_through=True),
)


class OcrHttpServicer(ocr_http_pb2_grpc.OcrHttpServiceServicer):
    """Passes Mistral's bytes through."""

    def __init__(self, ocr: Ocr) -> None:
        self._ocr = ocr

    async def Process(self, request: BodyView, context: Context) -> bytes:  # type: ignore[override] # passed through
        """Answer with the upstream's status, headers and bytes."""
        call = current_call()
        reply = HttpReply(call, context)
        return await reply.end_events(await self._ocr.process(request.data, call=call, reply=reply))


class OcrServicer(ocr_pb2_grpc.OcrServiceServicer):
    """Serves typed messages."""

    def __init__(self, ocr: Ocr) -> None:
        self._ocr = ocr

    async def ProcessDocument(
        self, request: ocr_pb2.ProcessDocumentRequest, context: Context
    ) -> ocr_pb2.ProcessDocumentResponse:
        """Answer with the document's pages."""
        call = current_call()
        reply = Collected()
        body = reply.body(await self._ocr.process(typed.request_body(request), call=call, reply=reply))
        raise_for_status(reply.head.status, body, reply.head.headers)
        await send_head(reply.head, call, context)
        return typed.response(body)
