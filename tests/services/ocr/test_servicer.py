"""Both faces of the OCR service, through a real gRPC server with the interceptors of every service."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import any_pb2, json_format, struct_pb2

from common.errors import UpstreamFailed
from common.settings import MAX_BODY_BYTES
from tests.common.upstream.fake_client import FakeResponse
from tests.services.ocr.reading import ASK, DEFAULT_MODEL, SIZE, OcrTrial, page, read, served
from turnpike.ocr.v1 import ocr_http_pb2_grpc, ocr_pb2, ocr_pb2_grpc

_AUTH = (("authorization", "Bearer tp_olga"), ("x-request-id", "mine"))
_HTTP = (*_AUTH, ("x-envoy-original-method", "POST"), ("x-envoy-original-path", "/v1/ocr"))
_CUT = UpstreamFailed("The provider broke off its answer.", code="upstream_cut")


async def post(channel: grpc.aio.Channel, message: HttpBody) -> tuple[dict[str, Any], list[HttpBody]]:
    """Ask as Envoy does for an HTTP client; returns the head and the messages."""
    call = ocr_http_pb2_grpc.OcrHttpServiceStub(channel).Process(message, metadata=_HTTP)
    messages = [message async for message in call]
    return dict(await call.initial_metadata()), messages


async def process(channel: grpc.aio.Channel, **fields: Any) -> ocr_pb2.ProcessDocumentResponse:
    stub = ocr_pb2_grpc.OcrServiceStub(channel)
    return await stub.ProcessDocument(ocr_pb2.ProcessDocumentRequest(**fields), metadata=_AUTH)


async def test_bytes_pass_through_with_their_head() -> None:
    trial = OcrTrial(read())
    async with served(trial) as channel:
        head, messages = await post(channel, HttpBody(content_type="application/json", data=ASK))
    assert trial.sent == ASK
    assert b"".join(message.data for message in messages) == b"".join(map(bytes, read().pieces))  # type: ignore[arg-type]
    assert messages[0].content_type == "application/json"
    assert (head["x-request-id"], head["x-ratelimit-limit"]) == ("mine", "5")
    assert "x-http-status" not in head
    assert "set-cookie" not in head
    assert (trial.record.path, trial.record.method, trial.pages) == ("/v1/ocr", "POST", ("PROVIDER", 3))


@pytest.mark.parametrize("extended", [False, True])
async def test_every_form_of_the_message_is_read(extended: bool) -> None:  # noqa: FBT001 - a parameter of the test
    detail = any_pb2.Any()
    detail.Pack(struct_pb2.Value(string_value="x"))
    trial = OcrTrial(read())
    async with served(trial) as channel:
        await post(channel, HttpBody(data=ASK, extensions=[detail] if extended else []))
    assert trial.sent == ASK


async def test_a_body_of_32_mib_is_sent_as_it_came() -> None:
    body = b'{"model":"m","document":{"x":"' + b"a" * (MAX_BODY_BYTES - 33) + b'"}}'
    trial = OcrTrial(read())
    async with served(trial) as channel:
        await post(channel, HttpBody(content_type="application/json", data=body))
    assert trial.sent == body
    assert trial.record.bytes_in == len(body) == MAX_BODY_BYTES


async def test_an_upstreams_error_keeps_its_status_and_body() -> None:
    body = b'{"detail":[{"loc":["body","pages"],"msg":"wrong","type":"t"}]}'
    async with served(OcrTrial(FakeResponse([body], status=422))) as channel:
        head, messages = await post(channel, HttpBody(data=ASK))
    assert head["x-http-status"] == "422"
    assert b"".join(message.data for message in messages) == body


@pytest.mark.parametrize(
    ("body", "token", "answer", "status"),
    [
        (b"", "tp_olga", None, "400"),
        (b"{}", "tp_olga", None, "400"),
        (ASK, "tp_nobody", None, "401"),
        (ASK, "tp_carl", None, "403"),
        (ASK, "tp_olga", _CUT, "502"),
        (ASK, "tp_olga", FakeResponse([_CUT]), "502"),
    ],
)
async def test_the_gateways_own_errors_are_openais_envelope(
    body: bytes, token: str, answer: FakeResponse | BaseException | None, status: str
) -> None:
    metadata = (*_HTTP[1:], ("authorization", f"Bearer {token}"))
    async with served(OcrTrial(*([answer] if answer else []))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ocr_http_pb2_grpc.OcrHttpServiceStub(channel).Process(HttpBody(data=body), metadata=metadata).read()
    trailers = dict(caught.value.trailing_metadata() or ())
    assert trailers["x-http-status"] == status
    assert set(json.loads(trailers["x-error-body"])["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "document"),
    [
        ({"document_url": "https://x.test/a"}, {"type": "document_url", "document_url": "https://x.test/a"}),
        ({"image_url": "https://x.test/a"}, {"type": "image_url", "image_url": "https://x.test/a"}),
        ({"url": "https://x.test/a.gif"}, {"type": "image_url", "image_url": "https://x.test/a.gif"}),
        ({"url": "https://x.test/a.pdf"}, {"type": "document_url", "document_url": "https://x.test/a.pdf"}),
        ({"file_id": "f-1"}, {"type": "file", "file_id": "f-1"}),
        (
            {"inline": ocr_pb2.InlineDocument(data=b"%PDF-\x00\xff")},
            {"type": "document_url", "document_url": "data:application/pdf;base64,JVBERi0A/w=="},
        ),
        (
            {"inline": ocr_pb2.InlineDocument(data=b"\x89PNG", media_type="image/png")},
            {"type": "image_url", "image_url": "data:image/png;base64,iVBORw=="},
        ),
    ],
)
async def test_a_typed_request_is_sent_as_mistral_would_have_it(fields: dict[str, Any], document: Any) -> None:
    trial = OcrTrial(read())
    extra = json_format.ParseDict({"table_format": "html", "image_limit": 3, "pages": "0-1"}, struct_pb2.Struct())
    async with served(trial) as channel:
        await process(channel, **fields, extra=extra, pages=[0, 2], include_image_base64=True)
    assert json.loads(trial.sent) == {
        "model": DEFAULT_MODEL,
        "document": document,
        "pages": [0, 2],
        "include_image_base64": True,
        "table_format": "html",
        "image_limit": 3,
    }
    assert (trial.record.method, trial.record.path) == ("GRPC", "/turnpike.ocr.v1.OcrService/ProcessDocument")


async def test_a_typed_answer_has_all_that_mistrals_has() -> None:
    image = {"id": "i", "top_left_x": 1, "top_left_y": 2, "bottom_right_x": 3, "bottom_right_y": None}
    image |= {"image_base64": "data:image/png;base64,AA==", "image_annotation": '{"a":1}'}
    answer = {
        "pages": [page(0, images=[image], tables=[{"id": "t"}]), page(1, dimensions=None)],
        "model": "m-1",
        "document_annotation": "{}",
        "usage_info": {"pages_processed": "2", "doc_size_bytes": 10},
    }
    trial = OcrTrial(FakeResponse([json.dumps(answer).encode()]))
    async with served(trial) as channel:
        got = await process(channel, model="m", url="https://x.test/a.pdf")
    assert (got.model, got.pages_processed, got.document_bytes, got.document_annotation) == ("m-1", 2, 10, "{}")
    first, second = got.pages
    assert (first.index, first.markdown, second.index, second.markdown) == (0, "page 0", 1, "page 1")
    assert json_format.MessageToDict(first.dimensions) == SIZE
    assert not second.HasField("dimensions")
    assert json_format.MessageToDict(first.extra) == {"tables": [{"id": "t"}]}
    assert (first.images[0].top_left_x, first.images[0].image_annotation) == (1, '{"a":1}')
    assert not first.images[0].HasField("bottom_right_y")
    assert trial.pages == ("PROVIDER", 2)


async def test_pages_that_the_provider_does_not_count_are_unset() -> None:
    trial = OcrTrial(read(usage=None))
    async with served(trial) as channel:
        got = await process(channel, url="https://x.test/a.pdf")
    assert not got.HasField("pages_processed")
    assert trial.pages == ("NONE", 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({}, "document"), ({"url": ""}, "url"), ({"inline": {"data": b"x", "media_type": 'a"b'}}, "inline.media_type")],
)
async def test_a_typed_request_without_a_document_is_refused(fields: dict[str, Any], param: str) -> None:
    async with served(OcrTrial()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await process(channel, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert param in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (400, {"object": "error", "message": "no", "code": "3310"}, grpc.StatusCode.INVALID_ARGUMENT, "no"),
        (401, {"message": "Unauthorized"}, grpc.StatusCode.UNAUTHENTICATED, "Unauthorized"),
        (422, {"detail": [{"loc": ["body", "pages"], "msg": "bad"}]}, grpc.StatusCode.INVALID_ARGUMENT, "bad"),
        (422, {"message": {"detail": [{"msg": "bad"}]}}, grpc.StatusCode.INVALID_ARGUMENT, "bad"),
        (429, {"detail": "slow down"}, grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down"),
        (500, {"error": {"message": "broken"}}, grpc.StatusCode.INTERNAL, "broken"),
        (503, {}, grpc.StatusCode.UNAVAILABLE, "The provider answered 503."),
    ],
)
async def test_a_typed_error_says_what_the_provider_said(
    status: int, body: Any, code: grpc.StatusCode, message: str
) -> None:
    async with served(OcrTrial(FakeResponse([json.dumps(body).encode()], status=status))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await process(channel, url="https://x.test/a.pdf")
    assert (caught.value.code(), caught.value.details()) == (code, message)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}"])
async def test_an_answer_of_another_shape_is_an_error_of_the_provider(body: bytes) -> None:
    async with served(OcrTrial(FakeResponse([body]))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await process(channel, url="https://x.test/a.pdf")
    # Not UNAVAILABLE: clients repeat that, and would be billed again.
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "no answer to this request" in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("body", "pages"),
    [
        (b'{"pages":7,"usage_info":{"pages_processed":2}}', 0),
        (b'{"pages":[{"index":"x","markdown":5,"dimensions":[1]},7],"usage_info":{"pages_processed":2}}', 1),
        (b'{"pages":[{"markdown":"\\ud83d","images":[{"top_left_x":1.5}]}],"usage_info":{"pages_processed":2}}', 1),
    ],
)
async def test_a_field_of_another_type_loses_no_other_field(body: bytes, pages: int) -> None:
    async with served(OcrTrial(FakeResponse([body]))) as channel:
        answer = await process(channel, url="https://x.test/a.pdf")
    assert (len(answer.pages), answer.pages_processed) == (pages, 2)


async def test_an_inline_document_of_megabytes_goes_through() -> None:
    data = bytes(range(256)) * 4096 * 20
    trial = OcrTrial(read())
    async with served(trial) as channel:
        await process(channel, inline=ocr_pb2.InlineDocument(data=data))
    sent = json.loads(trial.sent)["document"]["document_url"]
    assert base64.b64decode(sent.partition(",")[2]) == data
