"""API tokens in a SQLite file, for one process: the default, and all that a laptop needs.

By Python's own sqlite3, because SQLAlchemy would take a fifth of the process's memory for eight statements.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from services.auth.announcements import Announcements
from services.auth.store import StoredToken, away, too_many

_log = structlog.get_logger(__name__)
T = TypeVar("T")

TIMEOUT_SECONDS: Final = 3.0
"""How long a statement waits for another process; less than the 5 s that services wait for an answer."""
_ROWS_IN_ONE_WRITE: Final = 1000
_COLUMNS: Final = "id, user_id, name, scopes, token_hash, prefix, created_at, last_used_at, expires_at"
_INSERT: Final = f"INSERT INTO api_tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
_RECORD_USE: Final = (
    "UPDATE api_tokens SET last_used_at = ?1 WHERE id = ?2 AND (last_used_at IS NULL OR last_used_at < ?1)"
)


class SqliteTokenStore:
    """Keeps tokens in the file at ``path``, whose tables must be there (see migrations/).

    All statements run one after the other in a thread of their own. ``close`` ends it.
    """

    shared = False

    def __init__(self, path: Path, *, now: Callable[[], datetime]) -> None:
        self._path = path
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self._connection: sqlite3.Connection | None = None

    async def close(self) -> None:
        """Close the file, after what was begun."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def add(self, token: StoredToken, *, at_most: int) -> None:
        """Add a token; raises InvalidRequest when the user has ``at_most`` tokens already."""

        def work(connection: sqlite3.Connection) -> None:
            query = "SELECT count(*) FROM api_tokens WHERE user_id = ?"
            if connection.execute(query, (token.user_id,)).fetchone()[0] >= at_most:
                raise too_many(at_most)
            connection.execute(_INSERT, _row(token))

        await self._write(work)

    async def of_user(self, user_id: str) -> Sequence[StoredToken]:
        """Return the user's tokens, newest first."""
        return await self._read("user_id = ? ORDER BY created_at DESC, id DESC", user_id)

    async def by_hash(self, token_hash: bytes) -> StoredToken | None:
        """Return the token with this hash; knowing its secret is what identifies the caller."""
        found = await self._read("token_hash = ?", token_hash)
        return found[0] if found else None

    async def remove(self, token_id: str, *, user_id: str) -> bool:
        """Remove the user's token and note its revocation; False when the user has no such token."""

        def work(connection: sqlite3.Connection) -> bool:
            delete = "DELETE FROM api_tokens WHERE id = ? AND user_id = ?"
            if connection.execute(delete, (token_id, user_id)).rowcount == 0:
                return False
            insert = "INSERT INTO revocations (token_id, revoked_at) VALUES (?, ?)"
            connection.execute(insert, (token_id, _text(self._now())))
            return True

        return await self._write(work)

    async def record_uses(self, uses: Mapping[str, datetime]) -> None:
        """Set when tokens were last used, by token id; never back to an earlier time."""
        rows = iter([(_text(at), token_id) for token_id, at in uses.items()])
        while batch := list(islice(rows, _ROWS_IN_ONE_WRITE)):
            await self._write(partial(_record_uses, batch))

    @asynccontextmanager
    async def announcements(self) -> AsyncIterator[Announcements]:
        """Hear nothing: no other process revokes tokens here."""
        yield Announcements()

    async def recent_revocations(self, *, seconds: float) -> Sequence[str]:
        """Return the ids of the tokens that were revoked in the last ``seconds``."""
        earliest = _text(self._now() - timedelta(seconds=seconds))
        query = "SELECT token_id FROM revocations WHERE revoked_at > ?"
        return await self._run(lambda connection: [row[0] for row in connection.execute(query, (earliest,))])

    async def forget_revocations(self, *, seconds: float) -> None:
        """Drop the notes of revocations that are older than ``seconds``."""
        latest = _text(self._now() - timedelta(seconds=seconds))
        delete = "DELETE FROM revocations WHERE revoked_at <= ?"
        await self._write(lambda connection: connection.execute(delete, (latest,)))

    async def _read(self, condition: str, value: str | bytes) -> list[StoredToken]:
        query = f"SELECT {_COLUMNS} FROM api_tokens WHERE {condition}"  # noqa: S608 - of this file's own constants
        return await self._run(lambda connection: [_token(row) for row in connection.execute(query, (value,))])

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return result

        return await self._run(transaction)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._connect()))
        except (sqlite3.Error, OSError) as error:
            _log.error("the database failed", error=f"{type(error).__name__}: {error}")
            raise away() from None

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            make_private_file(self._path)
            self._connection = sqlite3.connect(self._path, timeout=TIMEOUT_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def make_private_file(path: Path) -> None:
    """Make the file and its directories, for the owner alone, where they are missing; raises OSError."""
    for directory in reversed(path.absolute().parents):
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def revision_of(path: Path) -> str | None:
    """Return the revision of the file's tables, None when there are none; raises sqlite3.Error or OSError."""
    make_private_file(path)
    connection = sqlite3.connect(path, timeout=TIMEOUT_SECONDS)
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None
    finally:
        connection.close()


def _row(token: StoredToken) -> tuple[str | bytes | None, ...]:
    times = (token.created_at, token.last_used_at, token.expires_at)
    return (
        *(token.id, token.user_id, token.name, json.dumps(list(token.scopes)), token.token_hash, token.prefix),
        *(_text(time) if time is not None else None for time in times),
    )


def _token(row: Sequence[Any]) -> StoredToken:
    token_id, user_id, name, scopes, token_hash, prefix, created_at, last_used_at, expires_at = row
    return StoredToken(
        id=token_id,
        user_id=user_id,
        name=name,
        scopes=tuple(json.loads(scopes)),
        token_hash=token_hash,
        prefix=prefix,
        created_at=_time(created_at),
        last_used_at=_time(last_used_at) if last_used_at is not None else None,
        expires_at=_time(expires_at) if expires_at is not None else None,
    )


def _record_uses(uses: Sequence[tuple[str, str]], connection: sqlite3.Connection) -> None:
    connection.executemany(_RECORD_USE, uses)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _text(time: datetime) -> str:
    """Return the time as the migrations' column type keeps it: UTC, without a zone, so that texts sort as times do."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
