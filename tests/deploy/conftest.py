"""Free ports, and environments in which the starter finds nothing of the developer's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.config import INNER_PORTS, REPOSITORY
from tests.ports import reserved_ports

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


@pytest.fixture
def free_base() -> Iterator[int]:
    """The first of as many free ports in a row as a stack has inner ones."""
    with reserved_ports(INNER_PORTS) as ports:
        yield ports[0]


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
