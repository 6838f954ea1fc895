"""One chDB engine for all tests of this folder, directly and behind the HTTP bridge."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlencode

import chdb
import pytest
from pydantic import SecretStr

from services.usage.clickhouse_store import ClickHouseStore
from services.usage.connections import CHDB_OPTIONS, Connect, embedded, server
from services.usage.migrations import Place
from services.usage.store import UsageStore
from tests.services.usage.builders import RAW_DAYS
from tests.services.usage.clickhouse_bridge import ClickHouseBridge, running
from tests.services.usage.fake_store import FakeUsageStore


@pytest.fixture(scope="session")
def chdb_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The one directory that this process may open: chDB allows no second one."""
    directory = tmp_path_factory.mktemp("usage").resolve() / "clickhouse"
    kept_open = chdb.connect(_connection(directory))  # type: ignore[no-untyped-call] # ships no types
    yield directory
    kept_open.close()


@pytest.fixture(scope="session")
def bridge(chdb_directory: Path) -> Iterator[ClickHouseBridge]:
    """A ClickHouse server's double over the same engine."""
    with running(_connection(chdb_directory)) as serving:
        yield serving


@pytest.fixture
def place() -> Place:
    """A dataset of the test's own."""
    return Place(database="turnpike", dataset=f"events_{uuid.uuid4().hex}", raw_days=RAW_DAYS)


@pytest.fixture(params=["chdb", "http"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Opens clients of both kinds."""
    if request.param == "chdb":
        return embedded(request.getfixturevalue("chdb_directory"))
    return server(SecretStr(request.getfixturevalue("bridge").url))


@pytest.fixture
async def clickhouse(connect: Connect, place: Place) -> AsyncIterator[ClickHouseStore]:
    """A real store of both kinds."""
    async with ClickHouseStore(connect, place=place) as store:
        yield store


@pytest.fixture(params=["fake", "chdb", "http"])
async def store(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[UsageStore]:
    """Every store that keeps something; they must not differ."""
    if request.param == "fake":
        yield FakeUsageStore()
        return
    if request.param == "chdb":
        connect = embedded(request.getfixturevalue("chdb_directory"))
    else:
        connect = server(SecretStr(request.getfixturevalue("bridge").url))
    async with ClickHouseStore(connect, place=place) as kept:
        yield kept


def _connection(directory: Path) -> str:
    return f"{directory}?{urlencode(CHDB_OPTIONS)}"
