"""The provider that speaks OpenAI's API: where it sends, what it sends, and what it hides."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from common.providers.base_url import normalized
from common.providers.openai import DEFAULT_BASE_URL, OpenAIProvider
from common.upstream.http import HttpClient, Timers
from tests.common.raw_upstream import HEAD_JSON, Request, serving

_KEY = "sk-proj-0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://api.openai.com", "https://api.openai.com/v1"),
        ("api.openai.com", "https://api.openai.com/v1"),
        ("  http://127.0.0.1:8000  ", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", None),
        ("https://open.bigmodel.cn/api/paas/v4", None),
        ("https://example.com/v2ray", "https://example.com/v2ray"),
        ("https://example.com/version", "https://example.com/version/v1"),
        ("https://v1.example.com", "https://v1.example.com/v1"),
        ("https://example.com//", "https://example.com/v1"),
    ],
)
def test_a_base_url_gets_a_version_when_it_names_none(given: str, url: str | None) -> None:
    assert normalized(given) == (url or given)
    assert normalized(normalized(given)) == normalized(given)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "/v1",
        "ftp://example.com",
        "http://",
        "https:///v1",
        "http://example.com:port",
        "http://example.com:99999",
        "http://[::1",
        "https://example.com/v1?key=1",
        "https://example.com/v1#part",
        "unix:///tmp/socket",
    ],
)
def test_what_is_no_http_url_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        normalized(given)


def a_provider(http: HttpClient, base_url: str = DEFAULT_BASE_URL, key: str = _KEY) -> OpenAIProvider:
    return OpenAIProvider(http, base_url=base_url, api_key=SecretStr(key))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (f"Incorrect API key provided: {_KEY}.", "Incorrect API key provided: ***."),
        ("Incorrect API key provided: sk-pr***********cdef.", "Incorrect API key provided: sk-***."),
        ("No access for org-AbC123xyz", "No access for org-***"),
        ("project proj_AbC123xyz", "project proj-***"),
        ('{"error":"sk-aaaaaa","code":5}', '{"error":"sk-***","code":5}'),
        ("risk-free and task_force, ask-me-anything", "risk-free and task_force, ask-me-anything"),
        ("the organization must be verified", "the organization must be verified"),
    ],
)
def test_keys_and_organisations_do_not_leave_with_an_error(body: str, shown: str) -> None:
    provider = a_provider(HttpClient(timers=Timers()))
    assert provider.without_secrets(body.encode()).decode() == shown


def test_a_key_of_another_kind_does_not_leave_either() -> None:
    provider = a_provider(HttpClient(timers=Timers()), key="correct horse")
    assert provider.without_secrets(b"bad key: correct horse") == b"bad key: ***"


def test_without_a_key_an_errors_body_is_kept() -> None:
    assert a_provider(HttpClient(timers=Timers()), key="").without_secrets(b"no key") == b"no key"


@pytest.mark.parametrize(("key", "authorization"), [(_KEY, f"Bearer {_KEY}"), ("", None)])
async def test_a_chat_is_posted_with_the_operators_key_and_never_the_callers(
    key: str, authorization: str | None
) -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_JSON + b"content-length: 2\r\n\r\n{}")

    async with serving(answer) as upstream, HttpClient(timers=Timers()) as http:
        base_url = upstream.url.removesuffix("/v1/chat/completions")
        got = await a_provider(http, base_url, key).chat(b'{"a":1}', headers={"openai-organization": "mine"})
        assert await got.read() == b"{}"
        got.close()
        (request,) = upstream.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.body == b'{"a":1}'
    assert request.headers["content-type"] == "application/json"
    assert request.headers["openai-organization"] == "mine"
    assert request.headers.get("authorization") == authorization
