"""What a client sees of faults at the level of bytes and connections."""

import json
import socket
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.services.sandbox.conftest import WAIT_SECONDS, Sandbox

MESSAGES: Any = [{"role": "user", "content": "Hello there"}]


def connect(sandbox: Sandbox, *, stream: bool, faults: dict[str, object]) -> socket.socket:
    body = json.dumps({"model": "demo", "messages": MESSAGES, "stream": stream, "sandbox": faults}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: sandbox\r\ncontent-length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", sandbox.port), timeout=WAIT_SECONDS)
    connection.sendall(head.encode() + body)
    return connection


def read_to_end(connection: socket.socket) -> tuple[bytes, bytes]:
    with connection:
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    return head, body


def unchunked(raw: bytes) -> tuple[bytes, bool]:
    """Return the body and whether its end was there."""
    body = b""
    while raw:
        size, _, rest = raw.partition(b"\r\n")
        if int(size, 16) == 0:
            return body, True
        body, raw = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body, False


@pytest.mark.parametrize("size", [0, 1, 200, 1000])
def test_a_cut_stream_has_no_end(sandbox: Sandbox, size: int) -> None:
    head, raw = read_to_end(connect(sandbox, stream=True, faults={"cut_after_bytes": size}))
    body, ended = unchunked(raw)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: text/event-stream" in head
    assert (len(body), ended) == (size, False)
    entry = sandbox.last()
    assert (entry.outcome, entry.bytes_sent, entry.prompt_tokens) == ("cut", size, 3)


@pytest.mark.parametrize("status", [None, 500])
def test_a_cut_answer_is_shorter_than_it_said(sandbox: Sandbox, status: int | None) -> None:
    head, body = read_to_end(connect(sandbox, stream=False, faults={"cut_after_bytes": 30, "status": status}))
    assert b"content-length: " in head
    assert len(body) == 30
    assert (sandbox.last().outcome, sandbox.last().bytes_sent) == ("cut", 30)


def test_no_answer_is_not_one_byte(sandbox: Sandbox) -> None:
    assert read_to_end(connect(sandbox, stream=False, faults={"no_answer": True})) == (b"", b"")
    assert sandbox.last().status is None


def test_the_sdk_sees_a_cut_as_an_error(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="demo?cut_after_bytes=700", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIConnectionError):
        list(stream)
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="demo?no_answer=true", messages=MESSAGES)


def test_the_sdk_sees_an_error_event_and_a_malformed_one(client: OpenAI, sandbox: Sandbox) -> None:
    stream = client.chat.completions.create(
        model="demo?error_event=3&error_message=Overloaded", messages=MESSAGES, stream=True
    )
    with pytest.raises(openai.APIError, match="Overloaded"):
        list(stream)
    assert (sandbox.last().outcome, sandbox.last().events_sent) == ("error", 3)
    with pytest.raises(json.JSONDecodeError):
        list(client.chat.completions.create(model="demo?malformed_event=3", messages=MESSAGES, stream=True))


def test_a_stream_may_lack_its_end_its_usage_or_its_type(sandbox: Sandbox) -> None:
    asked = {"model": "demo", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    url = f"{sandbox.url}/v1/chat/completions"
    whole = httpx.post(url, json=asked)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert whole.text.endswith("data: [DONE]\n\n")
    assert whole.text.count("usage") > 1
    endless = httpx.post(url, json={**asked, "sandbox": {"no_done": True, "no_usage": True}})
    assert "[DONE]" not in endless.text
    assert "usage" not in endless.text
    plain = httpx.post(url, json={**asked, "sandbox": {"json_instead_of_stream": True}})
    assert plain.headers["content-type"] == "application/json"
    assert plain.json()["object"] == "chat.completion"
    commented = httpx.post(url, json={**asked, "sandbox": {"comments": True, "write_bytes": 7}})
    assert commented.text.count(": ping\n\n") == commented.text.count("data: ")
    page = httpx.post(url, json={**asked, "sandbox": {"status": 502, "error_body": "<h1>Bad gateway</h1>"}})
    assert (page.status_code, page.text) == (502, "<h1>Bad gateway</h1>")


def test_delays_come_from_the_clock(sandbox: Sandbox) -> None:
    faults = {"first_byte_delay_seconds": 0.5, "event_delay_seconds": 0.25, "stall_after_events": 2, "events": 2}
    read_to_end(connect(sandbox, stream=True, faults={**faults, "cut_after_bytes": 800}))
    assert sandbox.sleeper.delays == [0.5, 0.25, 0.25, 30.0]


@pytest.mark.parametrize("faults", [{"first_byte_delay_seconds": 60}, {"stall_after_events": 2, "stall_seconds": 60}])
def test_a_client_that_hangs_up_is_noticed(sandbox: Sandbox, faults: dict[str, object]) -> None:
    sandbox.sleeper.hold_from = 60
    connection = connect(sandbox, stream=True, faults=faults)
    if "stall_seconds" in faults:
        assert connection.recv(1)
    connection.close()
    entry = sandbox.last()
    assert entry.outcome == "client_gone"
    assert entry.completion_tokens in ((0, 1) if "stall_seconds" in faults else (0,))


def test_a_client_that_hangs_up_while_it_sends_leaves_no_trace(sandbox: Sandbox) -> None:
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{")
    assert httpx.get(f"{sandbox.url}/sandbox/ledger").json()["data"] == []


def test_one_connection_serves_many_requests(client: OpenAI, sandbox: Sandbox) -> None:
    for _ in range(3):
        list(client.chat.completions.create(model="demo", messages=MESSAGES, stream=True))
        client.chat.completions.create(model="demo", messages=MESSAGES)
    assert {entry.outcome for entry in sandbox.ledger.wait_for_ends(6)} == {"completed"}
