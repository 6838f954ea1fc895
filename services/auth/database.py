"""The auth service's database: its engine, SQLite's file, the migrations, and what is raised while it is away."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from common.errors import Unavailable

_log = structlog.get_logger(__name__)

NEWEST_REVISION: Final = "0001"
"""The revision of the last file in migrations/versions."""
_TIMEOUT_SECONDS: Final = 3.0  # Less than the 5 s that services wait for an answer.
_LOCK: Final = 7_818_904_201_112_022_117  # Any number that nothing else in the database locks.


def open_engine(url: URL, *, command_seconds: float | None = _TIMEOUT_SECONDS) -> AsyncEngine:
    """Return the engine of an asynchronous URL; makes SQLite's file and its directories for the owner alone.

    ``command_seconds`` is how long PostgreSQL may take for one command; None is for ever. Raises OSError.
    """
    if url.get_backend_name() == "sqlite":
        _make_private_file(Path(url.database or ""))
        engine = create_async_engine(url, hide_parameters=True, pool_timeout=_TIMEOUT_SECONDS)
        sa.event.listen(engine.sync_engine, "connect", _use_write_ahead_log)
        return engine
    return create_async_engine(
        url,
        hide_parameters=True,
        # One more round trip, off the request path, so that a database that was restarted costs no failed call.
        pool_pre_ping=True,
        pool_timeout=_TIMEOUT_SECONDS,
        connect_args={"timeout": _TIMEOUT_SECONDS, "command_timeout": command_seconds},
    )


class DatabaseRefused(Exception):
    """The database cannot be used; the message is one line for the operator."""


async def ensure_newest(url: URL) -> None:
    """Bring the database to the newest revision if it is not there; raises DatabaseRefused.

    A process of its own migrates, because what it loads for that would stay in the memory of this one.
    """
    try:
        if await _revision(url) == NEWEST_REVISION:
            return
    except _errors() as error:
        raise DatabaseRefused(str(error).partition("\n")[0] or type(error).__name__) from None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.auth.migrations.upgrade"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    # Not on the command line, where everybody on the machine would see the password.
    _, said = await process.communicate(url.render_as_string(hide_password=False).encode())
    if process.returncode:
        lines = said.decode("utf-8", "replace").splitlines()
        raise DatabaseRefused(lines[-1] if lines else "the migration failed")


async def _revision(url: URL) -> str | None:
    engine = open_engine(url)
    try:
        async with engine.connect() as connection:
            if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table("alembic_version")):
                return None
            query: sa.Select[Any] = sa.select(sa.column("version_num")).select_from(sa.table("alembic_version"))
            revision: str | None = (await connection.execute(query)).scalar()
            return revision
    finally:
        await engine.dispose()


def lock_for_migrations(connection: sa.Connection) -> None:
    """Let no other process migrate until the transaction ends, and let it happen whole or not at all."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    else:
        # Python's sqlite3 would begin no transaction by itself for statements that make tables.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def away_when_it_fails() -> Iterator[None]:
    """Log what the database raises, and raise Unavailable in its place."""
    try:
        yield
    except _errors() as error:
        # The engine hides parameters, so that no hash and no name is in this line.
        # PostgreSQL's first line says what is wrong, the others quote rows.
        what = str(error).partition("\n")[0]
        _log.error("the database failed", error=f"{type(error).__name__}: {what}")
        raise away() from None


def away() -> Unavailable:
    """Return the error of every method while the database is away."""
    return Unavailable("The token store is not available; try again.", code="token_store_unavailable")


def _errors() -> tuple[type[Exception], ...]:
    """Return what is raised while the database is away, by PostgreSQL's driver too: SQLite does without loading it."""
    driver: Any = sys.modules.get("asyncpg")
    of_driver = () if driver is None else (driver.PostgresError, driver.InterfaceError)
    return (sa.exc.SQLAlchemyError, OSError, TimeoutError, *of_driver)


def _make_private_file(path: Path) -> None:
    for directory in reversed(path.absolute().parents):
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _use_write_ahead_log(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={int(_TIMEOUT_SECONDS * 1000)}")
    cursor.close()
