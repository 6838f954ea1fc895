"""Lists a user's databases: those of their own tenant, or the user's part of the shared one."""

from __future__ import annotations

from typing import Final

import msgspec

from common.errors import Internal, Unavailable, UpstreamFailed
from services.chroma.namespace import TENANT, Namespace
from services.chroma.request_line import Query
from services.chroma.store import Store, databases_path

_PAGE: Final = 10_000
_MAX_PAGES: Final = 100
_ATTEMPTS: Final = 5


class Database(msgspec.Struct, frozen=True):
    """A database as Chroma shows it."""

    id: str
    name: str
    tenant: str


class Page(msgspec.Struct, frozen=True):
    """A part of a list; ``limit`` None is all that follows."""

    limit: int | None = None
    offset: int = 0

    @property
    def query(self) -> Query:
        """The page in Chroma's query parameters."""
        limit = () if self.limit is None else (("limit", str(self.limit)),)
        return (*limit, *((("offset", str(self.offset)),) if self.offset else ()))


ALL: Final = Page()


class DatabaseList:
    """Reads lists of databases from ``store``, the shared tenant's ``page_size`` at a time."""

    def __init__(self, store: Store, *, page_size: int = _PAGE) -> None:
        self._store = store
        self._page_size = page_size

    async def read(self, namespace: Namespace, *, tenant: str, page: Page = ALL) -> list[Database]:
        """Return a page of the user's databases in ``tenant``, under the names that the user knows, in Chroma's order.

        Raises UpstreamFailed, UpstreamTimeout or Unavailable, and Internal when the user's tenant holds another's.
        """
        if tenant == TENANT:
            end = None if page.limit is None else page.offset + page.limit
            return (await self.read_shared(namespace))[page.offset : end]
        return [_own(database, namespace) for database in await self._read(tenant, page)]

    async def read_shared(self, namespace: Namespace) -> list[Database]:
        """Return the user's databases in the shared tenant; reads everybody's, a page at a time.

        Raises Unavailable when there is no end of them or other users' changes never let it finish.
        """
        for _ in range(_ATTEMPTS):
            databases = await self._read_shared_once(namespace)
            if databases is not None:
                return databases
        raise Unavailable("The databases changed while they were listed; try again.", code="databases_changing")

    async def _read_shared_once(self, namespace: Namespace) -> list[Database] | None:
        """Return the user's databases, or None when the list moved between two pages.

        One page comes from one reading of Chroma's. Where that is not enough, each page begins with the last element
        of the one before: if it does not, somebody made or deleted a database, and one of this user's may be missing.
        """
        own: list[Database] = []
        seen = 0
        last_id = ""
        for _ in range(_MAX_PAGES):
            page = await self._read(TENANT, Page(limit=self._page_size, offset=max(0, seen - 1)))
            if seen and (not page or page[0].id != last_id):
                return None
            new = page[1:] if seen else page
            own += [_own(database, namespace) for database in new if namespace.owns(database.name)]
            if len(page) < self._page_size:
                return own
            seen += len(new)
            last_id = page[-1].id
        raise Unavailable("Chroma holds too many databases to list them.", code="too_many_databases")

    async def _read(self, tenant: str, page: Page) -> list[Database]:
        answer = await self._store.request("GET", databases_path(tenant), query=page.query)
        if answer.status != 200:
            raise UpstreamFailed("Chroma did not list the databases.", code="upstream_refused")
        try:
            databases = msgspec.json.decode(answer.body, type=list[Database])
        except (ValueError, RecursionError):
            raise UpstreamFailed("Chroma's list of databases is not one.", code="upstream_malformed") from None
        if any(database.tenant != tenant for database in databases):
            raise Internal("Chroma answered with a tenant that was not asked for.", code="foreign_tenant")
        return databases


def _own(database: Database, namespace: Namespace) -> Database:
    return Database(database.id, namespace.own_name(database.name), TENANT)
