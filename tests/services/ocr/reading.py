"""Answers of a provider of OCR, and an OCR service around them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from pydantic import SecretStr

from common.background import Health
from common.dialects.mistral_ocr import MistralOcr
from common.identity.principal import Kind, Principal
from common.metering.units import Unit
from common.request import Call
from common.serving.run import Process, Service, server_of
from common.settings import ServiceSettings
from common.telemetry import Telemetry
from services.ocr.core import Ocr
from services.ocr.servicer import ROUTES, OcrHttpServicer, OcrServicer
from tests.common.identity.fake_authenticator import FakeAuthenticator
from tests.common.trial import Got, Trial
from tests.common.upstream.fake_client import FakeResponse
from turnpike.ocr.v1.ocr_http_pb2_grpc import add_OcrHttpServiceServicer_to_server
from turnpike.ocr.v1.ocr_pb2_grpc import add_OcrServiceServicer_to_server

DEFAULT_MODEL: Final = "ocr-of-the-house"
ASK: Final = b'{"model": "m", "document": {"type": "document_url", "document_url": "https://x.test/a.pdf"}}'
OLGA: Final = Principal(Kind.API_TOKEN, user_id="olga", token_id="tok_1", scopes=frozenset({"ocr"}))
CARL: Final = Principal(Kind.API_TOKEN, user_id="carl", token_id="tok_2", scopes=frozenset({"chat"}))
SIZE: Final = {"dpi": 200, "height": 2200, "width": 1700}
_ROOM: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def page(index: int = 0, **fields: Any) -> dict[str, Any]:
    """Return one page of an answer."""
    return {"index": index, "markdown": f"page {index}", "images": [], "dimensions": SIZE, **fields}


def read(*, usage: Any = {"pages_processed": 3, "doc_size_bytes": 9}, pages: int = 3) -> FakeResponse:  # noqa: B006
    """Return an answer, spelled in a way that no encoder would choose."""
    value = {"pages": [page(index) for index in range(pages)], "model": "m-1", "usage_info": usage, "x": 1.50}
    return FakeResponse([json.dumps(value, indent=3).encode()], headers={"x-ratelimit-limit": "5", "set-cookie": "a=b"})


def a_call() -> Call:
    """Make a call that came over HTTP."""
    return Call(
        rpc="/turnpike.ocr.v1.OcrHttpService/Process",
        metadata={},
        request_id="req-1",
        method="POST",
        path="/v1/ocr",
        principal=OLGA,
    )


class OcrTrial(Trial):
    """The OCR service around a provider that gives these answers."""

    def __init__(self, *responses: FakeResponse | BaseException) -> None:
        super().__init__(*responses, service="ocr")
        self.ocr = Ocr(self.relay, default_model=DEFAULT_MODEL)

    async def ask(self, body: bytes | memoryview = ASK) -> Got:
        """Ask, and read all of the answer."""
        return await self.send(body, dialect=MistralOcr(default_model=DEFAULT_MODEL), call=a_call())

    @property
    def sent(self) -> bytes:
        """The body that the provider got."""
        (body,) = self.client.bodies
        return body

    @property
    def pages(self) -> tuple[str, int]:
        """How many pages the one record counts, and by whose word."""
        return self.counts[0], self.record.sum_of(Unit.PAGES)


@contextlib.asynccontextmanager
async def served(trial: OcrTrial) -> AsyncIterator[grpc.aio.Channel]:
    """Serve the trial through a real gRPC server in this process, and give a channel to it."""
    authenticator = FakeAuthenticator({"tp_olga": OLGA, "tp_carl": CARL})
    service = Service(
        routes=ROUTES,
        servicers=[
            (add_OcrServiceServicer_to_server, OcrServicer(trial.ocr)),
            (add_OcrHttpServiceServicer_to_server, OcrHttpServicer(trial.ocr)),
        ],
        authenticator=authenticator,
    )
    settings = ServiceSettings(service_key=SecretStr("k" * 16), log_level="warning")
    server = server_of(service, settings=settings, process=Process(Telemetry("ocr"), Health()))
    port = await server.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=(*_ROOM, ("grpc.use_local_subchannel_pool", 1))
        ) as channel:
            yield channel
    finally:
        await server.stop(grace_seconds=0)
