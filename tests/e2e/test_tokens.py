"""API tokens over HTTP, and what they open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.stack import Stack, bounded
from tests.e2e.test_edge import CHAT, HELLO


def test_a_token_is_created_listed_used_and_deleted(stack: Stack) -> None:
    jwt = stack.jwt_of("tess")
    with stack.client(credential=jwt) as platform:
        created = platform.post("/v1/api-tokens", json={"name": "laptop", "scopes": ["chat"]}).json()
        assert created["token"].startswith("tp_")
        listed = platform.get("/v1/api-tokens").json()["data"]
        assert [(token["id"], token["name"], token["scopes"]) for token in listed] == [
            (created["id"], "laptop", ["chat"])
        ]
        assert "token" not in listed[0]
        with stack.client(credential=created["token"]) as client:
            assert client.post(CHAT, json=HELLO).status_code == 200
            deleted = platform.delete(f"/v1/api-tokens/{created['id']}")
            assert deleted.status_code == 204
            assert deleted.content == b""
            assert "content-type" not in deleted.headers
            assert any(client.post(CHAT, json=HELLO).status_code == 401 for _ in bounded(5))
        assert platform.get("/v1/api-tokens").json()["data"] == []
        assert platform.delete(f"/v1/api-tokens/{created['id']}").status_code == 404


def test_another_users_token_is_404(stack: Stack) -> None:
    theirs = stack.new_token("owner")
    with stack.client(credential=stack.jwt_of("stranger")) as stranger:
        answer = stranger.delete(f"/v1/api-tokens/{theirs['id']}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    with stack.client(credential=theirs["token"]) as client:
        assert client.post(CHAT, json=HELLO).status_code == 200


def test_an_api_token_cannot_manage_tokens(stack: Stack) -> None:
    with stack.client() as client:
        answers = [
            client.get("/v1/api-tokens"),
            client.post("/v1/api-tokens", json={}),
            client.delete("/v1/api-tokens/x"),
        ]
    for answer in answers:
        assert answer.status_code == 403
        assert "platform JWT" in answer.json()["error"]["message"]


def test_nobody_cannot_manage_tokens(stack: Stack) -> None:
    with stack.client(credential="") as client:
        assert client.get("/v1/api-tokens").status_code == 401


def test_a_scope_opens_its_own_route_only(stack: Stack) -> None:
    token = stack.new_token("sam", scopes=["usage"])["token"]
    with stack.client(credential=token) as client:
        answer = client.post(CHAT, json=HELLO)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "insufficient_scope"
    assert "chat" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"scopes": ["root"]}, "root"),
        ({"scopes": "chat"}, "scopes"),
        ({"scopes": [7]}, ""),
        ({"name": "x" * 201}, "name"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
    ],
)
def test_a_bad_token_request_is_a_clear_400(stack: Stack, body: object, part: str) -> None:
    with stack.client(credential=stack.jwt_of("bea")) as client:
        answer = client.post("/v1/api-tokens", json=body)
    assert answer.status_code == 400, answer.text
    assert part in answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_token_may_expire(stack: Stack) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")
    token = stack.new_token("eve", expires_at=tomorrow)
    assert token["expires_at"]
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat().replace("+00:00", "Z")
    short = stack.new_token("eve", expires_at=soon)
    with stack.client(credential=short["token"]) as client:
        assert client.post(CHAT, json=HELLO).status_code == 200
        # The cached principal must not outlive the token.
        assert any(client.post(CHAT, json=HELLO).status_code == 401 for _ in bounded(5))
