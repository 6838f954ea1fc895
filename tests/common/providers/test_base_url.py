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
