"""SQLAlchemy's engine of the auth service's database: for PostgreSQL, and for the migrations of both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.auth.sqlite_store import TIMEOUT_SECONDS, make_private_file
from services.auth.store import away

_log = structlog.get_logger(__name__)

_LOCK: Final = 7_818_904_201_112_022_117  # Any number that nothing else in the database locks.


def open_engine(url: URL, *, command_seconds: float | None = TIMEOUT_SECONDS) -> AsyncEngine:
    """Return the engine of an asynchronous URL; makes SQLite's file and its directories for the owner alone.

    ``command_seconds`` is how long PostgreSQL may take for one command; None is for ever. Raises OSError.
    """
    if url.get_backend_name() == "sqlite":
        make_private_file(Path(url.database or ""))
        engine = create_async_engine(url, hide_parameters=True, pool_timeout=TIMEOUT_SECONDS)
        sa.event.listen(engine.sync_engine, "connect", _use_write_ahead_log)
        return engine
    return create_async_engine(
        url,
        hide_parameters=True,
        # One more round trip, off the request path, so that a database that was restarted costs no failed call.
        pool_pre_ping=True,
        pool_timeout=TIMEOUT_SECONDS,
        connect_args={"timeout": TIMEOUT_SECONDS, "command_timeout": command_seconds},
    )


async def revision_of(url: URL) -> str | None:
    """Return the revision of the database's tables, None when there are none; raises one of ``errors()``."""
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
    except errors() as error:
        # The engine hides parameters, so that no hash and no name is in this line.
        # PostgreSQL's first line says what is wrong, the others quote rows.
        what = str(error).partition("\n")[0]
        _log.error("the database failed", error=f"{type(error).__name__}: {what}")
        raise away() from None


def errors() -> tuple[type[Exception], ...]:
    """Return what is raised while the database is away, by PostgreSQL's driver too: SQLite does without loading it."""
    driver: Any = sys.modules.get("asyncpg")
    # asyncpg's internal errors, too: it raises one for a connection that PostgreSQL ends during a command.
    of_driver = () if driver is None else (driver.PostgresError, driver.InterfaceError, driver.InternalClientError)
    return (sa.exc.SQLAlchemyError, OSError, TimeoutError, *of_driver)


def _use_write_ahead_log(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={int(TIMEOUT_SECONDS * 1000)}")
    cursor.close()
