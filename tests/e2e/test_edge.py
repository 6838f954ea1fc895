"""What a stranger's HTTP requests get at the edge, good and bad."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest

from tests.e2e.stack import Stack

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}


def _envelope(text: str) -> dict[str, Any]:
    body = json.loads(text)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


def test_a_chat_is_answered_with_the_upstreams_bytes_and_limits(stack: Stack) -> None:
    with stack.client() as client:
        answer = client.post(CHAT, json=HELLO)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["choices"][0]["message"]["role"] == "assistant"
    assert answer.headers["x-ratelimit-limit-requests"]
    assert not [name for name in answer.headers if name.startswith(("grpc", "x-envoy", "x-http-status"))]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"   ", None),
        (b"{", None),
        (b"nope", None),
        (b"null", None),
        (b"[]", None),
        (b'"text"', None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"messages":[]}', "model"),
        (b'{"model":"demo"}', "messages"),
        (b'{"model":"","messages":[]}', "model"),
        (b'{"model":7,"messages":[]}', "model"),
        (b'{"model":"demo","messages":"text"}', "messages"),
        (b'{"model":"demo","messages":{}}', "messages"),
        (b'{"model":"demo","messages":[],"stream":"yes"}', "stream"),
        (
            b'{"model":"demo","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":7}',
            "stream_options",
        ),
    ],
)
def test_wrong_input_is_a_400_with_the_whole_envelope(stack: Stack, body: bytes, param: str | None) -> None:
    with stack.client() as client:
        answer = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = _envelope(answer.text)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD"])
def test_other_methods_on_chat_are_405_with_allow(stack: Stack, method: str) -> None:
    with stack.client() as client:
        answer = client.request(method, CHAT)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method != "HEAD":
        assert _envelope(answer.text)["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nope", "/v1/chat/completions/", "/v1/chat", "/v2/chat/completions"])
def test_an_unknown_path_is_404_with_the_envelope(stack: Stack, path: str) -> None:
    with stack.client() as client:
        answer = client.post(path, json=HELLO)
    assert answer.status_code == 404
    assert _envelope(answer.text)["code"] == "unknown_url"


def test_a_body_over_32_mib_is_413_and_one_just_below_is_served(stack: Stack) -> None:
    limit = 32 * 1024 * 1024
    head = b'{"model":"demo","messages":[{"role":"user","content":"hi"}],"user":"'
    with stack.client() as client:
        below = client.post(CHAT, content=head + b"a" * (limit - len(head) - 2) + b'"}')
        above = client.post(CHAT, content=head + b"a" * limit + b'"}')
    assert below.status_code == 200, below.text
    assert above.status_code == 413
    assert _envelope(above.text)["code"] == "payload_too_large"


def test_a_valid_request_id_is_kept_and_another_is_replaced(stack: Stack) -> None:
    with stack.client() as client:
        kept = client.post(CHAT, json=HELLO, headers={"x-request-id": "my-id.1:2"})
        # Of a version that Envoy would otherwise write its decision about traces into.
        uuid = client.post(CHAT, json=HELLO, headers={"x-request-id": "0190163D-8694-739b-aea5-966c26f8ad91"})
        error = client.post(CHAT, content=b"", headers={"x-request-id": "my-id-2"})
        edge = client.get("/v1/nope", headers={"x-request-id": "my-id-3"})
        replaced = client.post(CHAT, json=HELLO, headers={"x-request-id": "two words"})
        long = client.post(CHAT, json=HELLO, headers={"x-request-id": "x" * 129})
        fresh = client.post(CHAT, json=HELLO)
    assert kept.headers["x-request-id"] == "my-id.1:2"
    assert uuid.headers["x-request-id"] == "0190163D-8694-739b-aea5-966c26f8ad91"
    assert error.headers["x-request-id"] == "my-id-2"
    assert edge.headers["x-request-id"] == "my-id-3"
    for answer in (replaced, long, fresh):
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
        assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


def test_a_credential_is_needed_and_read_from_three_headers(stack: Stack) -> None:
    with stack.client(credential="") as client:
        missing = client.post(CHAT, json=HELLO)
        wrong = client.post(CHAT, json=HELLO, headers={"authorization": "Bearer tp_wrong"})
        unknown = client.post(CHAT, json=HELLO, headers={"authorization": "Bearer something"})
        basic = client.post(CHAT, json=HELLO, headers={"authorization": "Basic abc"})
        good = [
            client.post(CHAT, json=HELLO, headers=headers).status_code
            for headers in (
                {"authorization": f"Bearer {stack.token}"},
                {"authorization": f"bearer {stack.token}"},
                {"x-api-key": stack.token},
                {"api-key": stack.token},
                {"authorization": f"Bearer {stack.jwt}"},
            )
        ]
    assert good == [200] * 5
    for answer in (missing, wrong, unknown, basic):
        assert answer.status_code == 401, answer.text
        assert _envelope(answer.text)["type"] == "authentication_error"


def test_headers_of_the_edge_cannot_be_forged(stack: Stack) -> None:
    forged = {"x-envoy-original-path": "/v1/forged", "x-envoy-original-method": "FORGED"}
    with stack.client() as client:
        answer = client.post(CHAT, json={**HELLO, "model": "forged-path"}, headers=forged)
    assert answer.status_code == 200
    # What was metered is read back in test_usage; here it is enough that the call worked and was not confused.
    assert answer.json()["model"] == "forged-path"


def test_a_preflight_is_answered_for_every_origin(stack: Stack) -> None:
    headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
    with stack.client(credential="") as client:
        preflight = client.options(CHAT, headers=headers)
        actual = client.post(CHAT, json=HELLO, headers={"origin": "https://app.example", "x-api-key": stack.token})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] in ("*", "https://app.example")
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert actual.headers["access-control-allow-origin"] in ("*", "https://app.example")


def test_half_a_request_does_not_hold_up_the_others(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.port)) as half:
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        with stack.client() as client:
            assert client.post(CHAT, json=HELLO).status_code == 200
