"""Makes the database that each user has from the start."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from common.errors import UpstreamFailed
from services.chroma.expiring_cache import ExpiringCache
from services.chroma.namespace import DEFAULT_DATABASE, Namespace
from services.chroma.store import Store, database_path, databases_path
from services.chroma.tenancy import Tenancy

_SECONDS: Final = 60.0
_CAPACITY: Final = 10_000


class DefaultDatabases:
    """Makes users' default databases, and takes it for a minute that they exist."""

    def __init__(self, store: Store, *, tenancy: Tenancy, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._tenancy = tenancy
        self._tenants: ExpiringCache[str, str] = ExpiringCache(seconds=_SECONDS, capacity=_CAPACITY, clock=clock)

    async def ensure(self, namespace: Namespace) -> str:
        """Make the user's default database unless it exists, and return the tenant in which it lies.

        Raises UpstreamFailed when Chroma refuses, UpstreamTimeout or Unavailable.
        """
        known = self._tenants.get(namespace.user_id)
        if known is not None:
            return known
        tenant = await self._tenancy.tenant_of(namespace)
        stored = namespace.stored_name(DEFAULT_DATABASE)
        answer = await self._store.request("GET", database_path(tenant, stored))
        if answer.status == 404:
            tenant = await self._tenancy.tenant_for_new_database(namespace)
            body = msgspec.json.encode({"name": stored})
            answer = await self._store.request("POST", databases_path(tenant), body=body)
        # 409: another request of the user was faster.
        if answer.status not in (200, 201, 409):
            raise UpstreamFailed("Chroma did not make the default database.", code="upstream_refused")
        self._tenants.put(namespace.user_id, tenant)
        return tenant

    def discard(self, namespace: Namespace) -> None:
        """Look again before the next use of the user's default database, because it may be gone."""
        self._tenants.discard(namespace.user_id)
