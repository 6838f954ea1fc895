"""One real Chroma for all tests of this folder: every test has users of its own in it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.ports import reserved_ports
from tests.services.chroma.support import Service, real_chroma, service_before


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the real Chroma is."""
    with reserved_ports() as ports, real_chroma(tmp_path_factory.mktemp("chroma"), port=ports[0]) as url:
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
