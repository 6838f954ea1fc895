"""Opens the token store that the settings name, with its tables at the newest revision."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from services.auth import sqlite_store
from services.auth.config import AuthSettings
from services.auth.store import TokenStore

NEWEST_REVISION: Final = "0001"
"""The revision of the last file in migrations/versions."""


class DatabaseRefused(Exception):
    """The database cannot be used; the message is one line for the operator."""


@asynccontextmanager
async def open_store(settings: AuthSettings, *, now: Callable[[], datetime]) -> AsyncIterator[TokenStore]:
    """Open the store; raises DatabaseRefused. SQLAlchemy is loaded for PostgreSQL only, because it takes memory."""
    path = settings.sqlite_path
    if path is not None:
        try:
            revision = await asyncio.to_thread(sqlite_store.revision_of, path)
        except (sqlite3.Error, OSError) as error:
            raise _refusal(error) from None
        await _migrate(revision)
        store = sqlite_store.SqliteTokenStore(path, now=now)
        try:
            yield store
        finally:
            await store.close()
        return
    from services.auth import database, postgresql_store  # noqa: PLC0415

    try:
        revision = await database.revision_of(settings.database)
    except database.errors() as error:
        raise _refusal(error) from None
    await _migrate(revision)
    engine = database.open_engine(settings.database)
    try:
        yield postgresql_store.PostgresqlTokenStore(engine)
    finally:
        await engine.dispose()


async def _migrate(revision: str | None) -> None:
    """Migrate in a process of its own, if there is something to do: what that loads would stay in this one's memory."""
    if revision == NEWEST_REVISION:
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.auth.migrations.upgrade"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        lines = said.decode("utf-8", "replace").splitlines()
        raise DatabaseRefused(lines[-1] if lines else "the migration failed")


def _refusal(error: BaseException) -> DatabaseRefused:
    return DatabaseRefused(str(error).partition("\n")[0] or type(error).__name__)
