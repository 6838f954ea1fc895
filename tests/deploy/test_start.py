"""`python -m deploy.local` itself: what it refuses in one line, and a whole stack."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

COMMAND = [sys.executable, "-m", "deploy.local"]
READY_SECONDS = 180.0
EVENT_SECONDS = 20.0


def refusal(environment: dict[str, str]) -> str:
    """Run the starter and return its only line; it must end with 2 and print nothing else."""
    ended = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TURNPIKE_PORT", "http"),
        ("TURNPIKE_PORT_BASE", "70000"),
        ("TURNPIKE_STATE_DIR", "/dev/null/state"),
        ("TURNPIKE_ENVOY", "/nonexistent/envoy"),
        ("TURNPIKE_LOG_LEVEL", "loud"),
        ("TURNPIKE_SERVICE_KEY", "short"),
        ("OPENAI_BASE_URL", "api.example.com"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(environment: dict[str, str], name: str, value: str) -> None:
    assert name in refusal({**environment, name: value})


@pytest.mark.parametrize(("name", "offset"), [("TURNPIKE_PORT", 0), ("TURNPIKE_PORT_BASE", 2)])
def test_a_taken_port_is_one_line_that_names_its_variable(environment: dict[str, str], name: str, offset: int) -> None:
    port = int(environment[name]) + offset
    with socket.create_server(("127.0.0.1", port)):
        line = refusal(environment)
    assert f"port {port} " in line
    assert f"set {name} to another port" in line


def test_a_second_stack_on_the_same_state_is_refused(environment: dict[str, str]) -> None:
    state = Path(environment["TURNPIKE_STATE_DIR"])
    state.mkdir()
    with (state / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "set TURNPIKE_STATE_DIR" in refusal(environment)


def test_missing_packages_say_what_to_run(environment: dict[str, str], tmp_path: Path) -> None:
    # -S and -E leave this Python without its packages, as a wrong one would be.
    repository = environment["PYTHONPATH"].split(":")[0]
    command = [sys.executable, "-S", "-E", "-m", "deploy.local"]
    ended = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.endswith("is missing: run make setup\n")
    assert ended.stderr.count("\n") == 1


@contextmanager
def running(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Run a whole stack until it is ready, give the variables that it wrote, and stop it."""
    stack = subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert stack.stdout is not None
    output, give_up = b"", time.monotonic() + READY_SECONDS
    try:
        while b"Turnpike is ready" not in output:
            readable, _, _ = select.select([stack.stdout], [], [], give_up - time.monotonic())
            read = os.read(stack.stdout.fileno(), 65536) if readable else b""
            assert read, f"not ready: {output.decode()}"
            output += read
        lines = (Path(environment["TURNPIKE_STATE_DIR"]) / "env").read_text().splitlines()
        yield dict(line.removeprefix("export ").split("=", 1) for line in lines)
        stack.send_signal(signal.SIGINT)
        rest = stack.communicate(timeout=EVENT_SECONDS)[0]
        assert stack.returncode == 0, rest.decode()
    finally:
        stack.kill()
        stack.communicate(timeout=EVENT_SECONDS)


async def test_tokens_and_usage_survive_a_restart(environment: dict[str, str]) -> None:
    body = {"model": "sandbox", "messages": [{"role": "user", "content": "Hello"}]}
    counts: list[float] = []
    tokens: list[str] = []
    for _ in range(2):
        with running(environment) as variables:
            headers = {"authorization": f"Bearer {variables['TURNPIKE_TOKEN']}"}
            async with httpx.AsyncClient(base_url=variables["TURNPIKE_URL"], headers=headers, timeout=20) as client:
                answer = await client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
            tokens.append(variables["TURNPIKE_TOKEN"])
            # The event is shipped within a second; the summary is asked until it is there.
            counts.append(requests_counted(variables, at_least=len(counts) + 1))
    assert tokens[0] == tokens[1]
    assert counts == [1, 2]


def requests_counted(variables: dict[str, str], *, at_least: int) -> float:
    """Ask for the usage until so many requests are counted; returns the last count."""
    headers = {"authorization": f"Bearer {variables['TURNPIKE_TOKEN']}"}
    give_up, count = time.monotonic() + EVENT_SECONDS, 0.0
    with httpx.Client(base_url=variables["TURNPIKE_URL"], headers=headers, timeout=20) as client:
        while count < at_least and time.monotonic() < give_up:
            count = client.get("/v1/usage", params={"hours": 1}).raise_for_status().json()["totals"]["requests"]
    return count
