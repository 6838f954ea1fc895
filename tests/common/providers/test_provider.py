"""What the providers are: where they are asked, as whom, and what they hide."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from common.errors import UpstreamFailed, UpstreamMalformed, UpstreamTimeout
from common.providers.mistral import mistral
from common.providers.openai import openai
from common.providers.provider import Verdict
from common.upstream.http import UnreachableError

_KEY = "sk-proj-0123456789abcdef"


def test_openai_is_asked_at_its_path_with_the_operators_key() -> None:
    provider = openai(api_key=SecretStr(_KEY))
    assert provider.url("openai_chat") == "https://api.openai.com/v1/chat/completions"
    assert provider.headers == {"content-type": "application/json", "authorization": f"Bearer {_KEY}"}
    elsewhere = openai(base_url="https://api.perplexity.ai", api_key=SecretStr(""))
    assert elsewhere.url("openai_chat") == "https://api.perplexity.ai/chat/completions"


def test_mistral_is_asked_at_its_path_with_the_operators_key() -> None:
    provider = mistral(api_key=SecretStr("k"), base_url="http://ocr.test/v1")
    assert provider.url("mistral_ocr") == "http://ocr.test/v1/ocr"
    assert provider.headers["authorization"] == "Bearer k"


def test_without_a_key_nobody_is_named() -> None:
    assert openai(api_key=SecretStr("")).headers == {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (f"Incorrect API key provided: {_KEY}.", "Incorrect API key provided: ***."),
        ("Incorrect API key provided: sk-pr***********cdef.", "Incorrect API key provided: sk-***."),
        ("No access for org-AbC123xyz", "No access for org-***"),
        ("project proj_AbC123xyz", "project proj_***"),
        ('{"error":"sk-aaaaaa","code":5}', '{"error":"sk-***","code":5}'),
        ("risk-free and task_force, ask-me-anything", "risk-free and task_force, ask-me-anything"),
        ("the organization must be verified", "the organization must be verified"),
    ],
)
def test_keys_and_organisations_do_not_leave_with_an_error(body: str, shown: str) -> None:
    assert openai(api_key=SecretStr(_KEY)).scrub(body.encode()).decode() == shown


def test_a_key_of_no_known_form_is_hidden_too() -> None:
    provider = mistral(api_key=SecretStr("mistral-key-0123456789"))
    assert provider.scrub(b"wrong: mistral-key-0123456789") == b"wrong: ***"
    assert mistral(api_key=SecretStr("")).scrub(b"wrong: mistral-key") == b"wrong: mistral-key"


def test_a_key_of_a_few_characters_garbles_no_error() -> None:
    body = b'{"error":{"message":"no"}}'
    assert openai(api_key=SecretStr("e")).scrub(body) == body


def test_only_a_provider_that_saw_nothing_is_asked_again() -> None:
    verdict = openai(api_key=SecretStr("")).verdict
    assert verdict(UnreachableError("away")) is Verdict.RETRY
    for failure in (UpstreamFailed("cut"), UpstreamTimeout("slow"), UpstreamMalformed("odd")):
        assert verdict(failure) is Verdict.PASS_ON
