"""A user's databases: the list of them, and the one that each user has from the start."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from common.errors import Unavailable, UpstreamFailed
from services.chroma.namespace import DEFAULT_DATABASE, Namespace
from services.chroma.remembered import Remembered
from services.chroma.upstream import DATABASES, Upstream, database_path

_SECONDS: Final = 60.0
_CAPACITY: Final = 10_000
_PAGE: Final = 10_000
_PAGES_AT_MOST: Final = 100
_TRIES: Final = 5


class Database(msgspec.Struct, frozen=True):
    """A database as Chroma shows it."""

    id: str
    name: str
    tenant: str


class Databases:
    """Lists databases and makes default ones, in a Chroma whose list shows those of everybody; ``page`` at a time."""

    def __init__(self, upstream: Upstream, *, page: int = _PAGE, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._page = page
        self._made: Remembered[str] = Remembered(seconds=_SECONDS, capacity=_CAPACITY, clock=clock)

    async def ensure_default(self, namespace: Namespace) -> None:
        """Make the user's default database unless it exists; raises UpstreamFailed when Chroma does not let that be."""
        if namespace.user_id in self._made:
            return
        stored = namespace.stored(DEFAULT_DATABASE)
        answer = await self._upstream.request("GET", database_path(stored))
        if answer.status == 404:
            body = msgspec.json.encode({"name": stored})
            answer = await self._upstream.request("POST", DATABASES, body=body)
        # 409: another request of the user was faster.
        if answer.status not in (200, 201, 409):
            raise UpstreamFailed("Chroma did not make the default database.", code="upstream_refused")
        self._made.add(namespace.user_id)

    def forget_default(self, namespace: Namespace) -> None:
        """Look again before the next use of the user's default database, because it may be gone."""
        self._made.forget(namespace.user_id)

    async def owned_by(self, namespace: Namespace) -> list[Database]:
        """Return the user's databases under the user's own names, in Chroma's order.

        Raises UpstreamFailed, or Unavailable when there is no end of them or other users' changes never let it finish.
        """
        await self.ensure_default(namespace)
        for _ in range(_TRIES):
            found = await self._read_all(namespace)
            if found is not None:
                return found
        raise Unavailable("The databases changed while they were listed; try again.", code="databases_changing")

    async def _read_all(self, namespace: Namespace) -> list[Database] | None:
        """Return the user's databases, or None when the list moved between two pages.

        One page comes from one reading of Chroma's. Where that is not enough, each page begins with the last element
        of the one before: if it does not, somebody made or deleted a database, and one of this user's may be missing.
        """
        found: list[Database] = []
        seen = 0
        last = ""
        for _ in range(_PAGES_AT_MOST):
            page = await self._read(offset=max(0, seen - 1))
            fresh = page[1:] if seen else page
            if seen and (not page or page[0].id != last):
                return None
            found += [
                Database(database.id, namespace.shown(database.name), database.tenant)
                for database in fresh
                if namespace.owns(database.name)
            ]
            if len(page) < self._page:
                return found
            seen += len(fresh)
            last = page[-1].id
        raise Unavailable("Chroma holds too many databases to list them.", code="too_many_databases")

    async def _read(self, *, offset: int) -> list[Database]:
        query = (("limit", str(self._page)), ("offset", str(offset)))
        answer = await self._upstream.request("GET", DATABASES, query=query)
        if answer.status != 200:
            raise UpstreamFailed("Chroma did not list the databases.", code="upstream_refused")
        try:
            return msgspec.json.decode(answer.body, type=list[Database])
        except (ValueError, RecursionError):
            raise UpstreamFailed("Chroma's list of databases is not one.", code="upstream_malformed") from None
