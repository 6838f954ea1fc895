"""`python -m deploy.local` itself: what it refuses in one line."""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "deploy.local"]


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
