"""The provider that speaks Mistral's OCR: where it sends, what it sends, and what it hides."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from common.providers.mistral import DEFAULT_BASE_URL, MistralProvider
from common.upstream.http import Body, HttpClient, Timers
from tests.common.raw_upstream import HEAD_JSON, Request, serving

_KEY = "mistral-key-0123456789"
_LARGE = b"x" * 3_000_000


async def _answer(request: Request) -> None:
    await request.connection.send(HEAD_JSON + b"content-length: 2\r\n\r\n{}")


@pytest.mark.parametrize("base", ["{}", "{}/", "{}/v1"])
async def test_a_request_goes_to_the_ocr_path_with_the_operators_key(base: str) -> None:
    async with serving(_answer) as upstream, HttpClient(timers=Timers()) as http:
        url = base.format(upstream.url.removesuffix("/v1/chat/completions"))
        provider = MistralProvider(http, base_url=url, api_key=SecretStr(_KEY))
        answer = await provider.ocr(b"{}", headers={"x-request-id": "mine"})
        assert (answer.status, await answer.read()) == (200, b"{}")
        answer.close()
    (request,) = upstream.requests
    assert request.line == "POST /v1/ocr HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {_KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    "body",
    [
        (b"{", b'"a":1', b"}"),
        (memoryview(b"  {}")[2:],),
        (b'{"a":"', memoryview(_LARGE), b'","b":"', memoryview(_LARGE)[1_000_001:], b'"}'),
        _LARGE,
        (),
    ],
)
async def test_pieces_arrive_as_one_body(body: Body) -> None:
    async with serving(_answer) as upstream, HttpClient(timers=Timers()) as http:
        provider = MistralProvider(http, base_url=upstream.url.removesuffix("/chat/completions"), api_key=None)
        answer = await provider.ocr(body, headers={})
        answer.close()
    (request,) = upstream.requests
    assert request.body == (b"".join(body) if isinstance(body, tuple) else body)
    assert "authorization" not in request.headers


def test_the_key_is_hidden_in_errors() -> None:
    http = HttpClient(timers=Timers())
    assert DEFAULT_BASE_URL == "https://api.mistral.ai/v1"
    with_key = MistralProvider(http, api_key=SecretStr(_KEY))
    assert with_key.without_secrets(f'{{"message":"{_KEY} is wrong"}}'.encode()) == b'{"message":"*** is wrong"}'
    assert MistralProvider(http, api_key=SecretStr("")).without_secrets(b"abc") == b"abc"
