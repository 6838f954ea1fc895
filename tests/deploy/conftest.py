"""Free ports, and environments in which the starter finds nothing of the developer's own."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.config import INNER_PORTS, REPOSITORY

_OURS = (
    "TURNPIKE_",
    "OPENAI_",
    "MISTRAL_",
    "CHROMA_",
    "API_AUTH_REQUIRED",
    "CLICKHOUSE_",
    "USAGE_",
    "PROXY_",
    "WORKER_",
    "OTEL_",
)


@pytest.fixture(autouse=True)
def _nothing_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        monkeypatch.delenv(name)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def free_base(free_port: int) -> int:
    """Return the first of as many ports in a row that nobody listens on, none of them ``free_port``."""
    with ExitStack() as stack:
        while True:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            base = int(probe.getsockname()[1]) + 1
            wanted = range(base, base + INNER_PORTS)
            if base + INNER_PORTS < 65536 and free_port not in wanted and all(map(_is_free, wanted)):
                return base


@pytest.fixture
def environment(tmp_path: Path, free_port: int, free_base: int) -> dict[str, str]:
    """Return the environment of a stack of its own."""
    return {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}",
        "TURNPIKE_STATE_DIR": str(tmp_path / "state"),
        "TURNPIKE_PORT": str(free_port),
        "TURNPIKE_PORT_BASE": str(free_base),
    }
