"""One real Chroma for all tests of this folder: every test has users of its own in it."""

from __future__ import annotations

import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.services.chroma.support import Service, real_chroma, service_before


def free_port() -> int:
    """Return a port that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the real Chroma is."""
    with real_chroma(tmp_path_factory.mktemp("chroma"), port=free_port()) as url:
        yield url


@pytest.fixture
async def service(chroma_url: str) -> AsyncIterator[Service]:
    """The service in front of the real Chroma."""
    async with service_before(chroma_url) as running:
        yield running


@pytest.fixture
def user() -> Callable[[str], str]:
    """Makes the id of a user that no other test has."""
    suffix = uuid.uuid4().hex
    return lambda name: f"{name}:{suffix}"
