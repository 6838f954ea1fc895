"""What of an answer's head its caller sees."""

from __future__ import annotations

from common.routing.response_headers import for_caller


def test_rate_limits_and_retry_hints_are_passed_on_and_the_operators_names_are_not() -> None:
    given = {
        "Retry-After": "5",
        "retry-after-ms": "5000",
        "X-Should-Retry": "false",
        "X-RateLimit-Remaining-Tokens": "7",
        "anthropic-ratelimit-requests-limit": "9",
        "openai-processing-ms": "12",
        "OpenAI-Version": "2020-10-01",
        "x-request-id": "req_upstream",
        "openai-organization": "org-of-the-operator",
        "openai-project": "proj_1",
        "Set-Cookie": "a=b",
        "content-length": "5",
        "content-encoding": "gzip",
        "transfer-encoding": "chunked",
        "server": "cloudflare",
        "x-http-status": "418",
        "x-error-body": "{}",
        "grpc-status": "0",
        "x-ratelimit-odd": "ä",
        "x-ratelimit-worse": "a\nb",
        "x-ratelimit-ü": "a",
    }
    assert for_caller(given) == {
        "retry-after": "5",
        "retry-after-ms": "5000",
        "x-should-retry": "false",
        "x-ratelimit-remaining-tokens": "7",
        "anthropic-ratelimit-requests-limit": "9",
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "x-upstream-request-id": "req_upstream",
    }


def test_their_number_and_their_size_are_bounded() -> None:
    many = {f"x-ratelimit-{number}": "1" for number in range(120)}
    long = {"x-ratelimit-long": "1" * 7_500, "x-ratelimit-" + "n" * 200: "1"}
    kept = for_caller({**long, **many, "retry-after": "7"})
    assert len(kept) == 32
    assert kept["retry-after"] == "7"
    assert max(len(name) + len(value) for name, value in kept.items()) < 256
