"""Requests that go no further, over both faces of the service."""

from __future__ import annotations

import pytest

from common.metering.record import Outcome
from services.chroma.store import StoreAnswer
from tests.services.chroma.alice import COLLECTION
from tests.services.chroma.fake_chroma import FakeStore
from tests.services.chroma.support import (
    DATABASES,
    running_service,
)


@pytest.fixture
def store() -> FakeStore:
    """A Chroma that says yes to everything."""
    return FakeStore(lambda method, path: StoreAnswer(200, COLLECTION if "/by-id/" in path else b"[]"))


@pytest.mark.parametrize("over", ["http", "grpc"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", DATABASES, b'{"name":"fuzz\xb0db"}'),
        ("POST", DATABASES, b'{"name":18446e44073709551616}'),
        ("POST", DATABASES, b'{"name":{"a\xbb":1}}'),
        ("POST", DATABASES, b'{"name":"\\ud800abc"}'),
        ("POST", DATABASES, b'{"n\xffame":"x"}'),
        ("POST", DATABASES, b'{"name":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        ("POST", f"{DATABASES}/mine/collections", b'{"name":"notes","database":"\xed\xa0\x80"}'),
        ("GET", f"{DATABASES}/%ff%fe", b""),
        ("GET", f"{DATABASES}/mine/collections/%ed%a0%80", b""),
        ("GET", f"{DATABASES}/mine%2fcollections", b""),
        ("GET", f"{DATABASES}?limit=1&limit=2", b""),
        ("GET", f"{DATABASES}?limit=18446744073709551616", b""),
        ("GET", f"{DATABASES}/mine/collections?database=%ff", b""),
    ],
)
async def test_bad_bytes_are_the_callers_fault(
    store: FakeStore, over: str, method: str, path: str, body: bytes
) -> None:
    async with running_service(store) as service:
        answer = await service.ask("alice", method, path, body, over=over)
    assert (answer.status, answer.content["error"]) == (400, "InvalidArgumentError")
    assert store.requests == []
    assert [event.status for event in service.outbox.events] == [400]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/api/v2/reset", 403, "not_isolated"),
        ("GET", "/unknown/alice", 404, "unknown_url"),
        ("PUT", "/api/v2", 405, "method_not_allowed"),
        ("POST", f"{DATABASES}/mine/collections/no-uuid/get", 400, "invalid_collection_id"),
        ("POST", f"{DATABASES}/no good/collections", 400, "invalid_name"),
        ("GET", "/api/v2/tenants/other", 404, "not_found"),
    ],
)
async def test_a_refusal_is_an_answer_and_an_event_and_asks_nobody(
    store: FakeStore, method: str, path: str, status: int, code: str
) -> None:
    async with running_service(store) as service:
        answers = [await service.ask("alice", method, path, b"{}", over=over) for over in ("http", "grpc")]
    assert [answer.status for answer in answers] == [status, status]
    assert answers[0].body == answers[1].body
    assert set(answers[0].content) == {"error", "message"}
    assert store.requests == []
    assert service.outbox.intents == []
    assert [(event.status, event.error_code, event.outcome) for event in service.outbox.events] == [
        (status, code, Outcome.FAILED)
    ] * 2
