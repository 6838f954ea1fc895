"""What callers see while parts of the gateway are away, and what is still there afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.stack import Stack, bounded, running_stack
from tests.e2e.test_edge import CHAT, HELLO


def _status(stack: Stack, **options: str) -> int:
    with stack.client(**options) as client:
        return client.post(CHAT, json=HELLO).status_code


def _chats_counted(stack: Stack) -> int:
    with stack.client() as client:
        models = client.get("/v1/usage").json()["top_models"]
    return sum(entry["requests"] for entry in models if entry["model"] == HELLO["model"])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def test_a_stopped_auth_service_is_a_503_and_never_a_401(closed: Stack, threads: ThreadPoolExecutor) -> None:
    stranger = closed.new_token("stranger")["token"]
    assert _status(closed) == 200
    pid = closed.pid("auth")
    assert pid is not None
    # Stopped, not killed: a dead one would be back at once. It counts as away after the call's own time limit.
    psutil.Process(pid).send_signal(signal.SIGSTOP)
    try:
        # One that is not known yet waits for the time limit, while the other is remembered for its seconds.
        refused = threads.submit(_status, closed, credential=stranger)
        statuses = [_status(closed)]
        for _ in bounded(60):
            statuses.append(_status(closed))
            if statuses[-1] != 200:
                break
        assert statuses[0] == 200
        assert statuses[-1] == 503
        assert refused.result() == 503
    finally:
        psutil.Process(pid).send_signal(signal.SIGCONT)
    assert any(_status(closed) == 200 for _ in bounded(60))


def test_tokens_and_usage_outlive_a_restart(tmp_path: Path) -> None:
    with running_stack(tmp_path / "state") as first:
        token = first.token
        assert _status(first) == 200
    with running_stack(tmp_path / "state") as second:
        assert second.token == token
        assert _status(second) == 200
        assert any(_chats_counted(second) == 2 for _ in bounded(60))


@pytest.mark.parametrize("name", ["chat", "usage", "auth"])
def test_a_killed_service_is_back_by_itself(stack: Stack, name: str) -> None:
    before = stack.pid(name)
    stack.kill(name)
    assert any(stack.pid(name) not in (None, before) for _ in bounded(60))
    stack.wait_until_ready()
