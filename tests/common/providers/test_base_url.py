"""Where a provider's API begins."""

from __future__ import annotations

import pytest

from common.providers.base_url import normalized


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
        ("https://v1.example.com", "https://v1.example.com/v1"),
        ("https://example.com//", "https://example.com/v1"),
    ],
)
def test_a_host_alone_gets_a_version(given: str, url: str | None) -> None:
    assert normalized(given) == (url or given)
    assert normalized(normalized(given)) == normalized(given)


@pytest.mark.parametrize(
    "given",
    [
        "https://dbc.cloud.databricks.com/serving-endpoints",
        "https://models.github.ai/inference",
        "https://openrouter.ai/api/v1",
        "https://example.com/version",
        "https://example.com/completions-api",
    ],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_a_path_is_taken_as_it_is(given: str, end: str) -> None:
    assert normalized(given + end) == given


@pytest.mark.parametrize("endpoint", ["/chat/completions", "/completions", "/embeddings", "/ocr", "/responses/"])
@pytest.mark.parametrize(
    "base", ["https://api.openai.com/v1", "https://api.perplexity.ai", "http://host:8000/serving-endpoints"]
)
def test_an_endpoint_stands_for_what_is_before_it(base: str, endpoint: str) -> None:
    assert normalized(base + endpoint) == base


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
