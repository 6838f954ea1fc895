"""What callers see while parts of the gateway are away, and what is still there afterwards."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.stack import Stack, bounded, running_stack
from tests.e2e.test_edge import CHAT, HELLO


def _status(stack: Stack, **options: str) -> int:
    with stack.client(**options) as client:
        return client.post(CHAT, json=HELLO).status_code


def test_a_stopped_auth_service_is_a_503_and_never_a_401(tmp_path: Path) -> None:
    with running_stack(tmp_path / "state", {"TURNPIKE_AUTH_CACHE_SECONDS": "2"}) as stack:
        stranger = stack.new_token("stranger")["token"]
        assert _status(stack) == 200
        pid = stack.pid("auth")
        assert pid is not None
        # Stopped, not killed: a dead one would be back at once. It counts as away after the call's own time limit.
        psutil.Process(pid).send_signal(signal.SIGSTOP)
        try:
            # Remembered for its seconds, then refused.
            statuses = [_status(stack)]
            for _ in bounded(10):
                statuses.append(_status(stack))
                if statuses[-1] != 200:
                    break
            assert statuses[0] == 200
            assert statuses[-1] == 503
            assert _status(stack, credential=stranger) == 503
        finally:
            psutil.Process(pid).send_signal(signal.SIGCONT)
        assert any(_status(stack) == 200 for _ in bounded(10))


def test_tokens_and_usage_outlive_a_restart(tmp_path: Path) -> None:
    with running_stack(tmp_path / "state") as first:
        token = first.token
        assert _status(first) == 200
    with running_stack(tmp_path / "state") as second:
        assert second.token == token
        assert _status(second) == 200
        with second.client() as client:
            assert any(client.get("/v1/usage").json()["totals"]["requests"] == 2 for _ in bounded(15))


@pytest.mark.parametrize("name", ["chat", "usage", "auth"])
def test_a_killed_service_is_back_by_itself(stack: Stack, name: str) -> None:
    before = stack.pid(name)
    stack.kill(name)
    assert any(stack.pid(name) not in (None, before) for _ in bounded(10))
    stack.wait_until_ready()
