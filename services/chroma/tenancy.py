"""Finds the Chroma tenant in which a user's databases lie.

A user has a tenant of their own, so that Chroma's list of its databases is the user's list. Earlier versions kept
everybody's databases in one tenant; whoever has any there keeps them there (docs/adr/0013).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from common.errors import UpstreamFailed
from services.chroma.database_list import DatabaseList
from services.chroma.expiring_cache import ExpiringCache
from services.chroma.namespace import TENANT, Namespace
from services.chroma.store import TENANTS, Store, tenant_path

_SECONDS: Final = 60.0
_CAPACITY: Final = 10_000


class Tenancy:
    """Finds users' tenants and makes those of new users.

    With ``tenant_per_user`` false all users are in one tenant, for a Chroma server that lets nobody make tenants.
    """

    def __init__(
        self,
        store: Store,
        *,
        database_list: DatabaseList,
        tenant_per_user: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._database_list = database_list
        self._tenant_per_user = tenant_per_user
        self._tenants: ExpiringCache[str, str] = ExpiringCache(seconds=_SECONDS, capacity=_CAPACITY, clock=clock)

    async def tenant_of(self, namespace: Namespace) -> str:
        """Return the tenant's name, and make the tenant of a new user.

        A user whose own tenant exists has all databases in it: it is made only when the shared one holds none of
        theirs. Raises UpstreamFailed, UpstreamTimeout or Unavailable; then nothing is decided.
        """
        if not self._tenant_per_user:
            return TENANT
        tenant = self._tenants.get(namespace.user_id)
        if tenant is None:
            tenant = await self._find_or_make(namespace)
            self._tenants.put(namespace.user_id, tenant)
        return tenant

    async def tenant_for_new_database(self, namespace: Namespace) -> str:
        """Return the same; where the cache says the shared tenant, after a look whether the user's own exists.

        Another process may have made it when the user had deleted every database, and would not see a new one here.
        """
        tenant = await self.tenant_of(namespace)
        if self._tenant_per_user and tenant == TENANT and await self._exists(namespace):
            tenant = namespace.tenant
            self._tenants.put(namespace.user_id, tenant)
        return tenant

    async def _find_or_make(self, namespace: Namespace) -> str:
        if await self._exists(namespace):
            return namespace.tenant
        if await self._database_list.read_shared(namespace):
            return TENANT
        answer = await self._store.request("POST", TENANTS, body=msgspec.json.encode({"name": namespace.tenant}))
        # 409: another request of the user was faster.
        if answer.status not in (200, 201, 409):
            raise UpstreamFailed(
                "Chroma did not make a tenant; with TURNPIKE_CHROMA_TENANT_PER_USER=0 it need not.",
                code="upstream_refused",
            )
        return namespace.tenant

    async def _exists(self, namespace: Namespace) -> bool:
        answer = await self._store.request("GET", tenant_path(namespace.tenant))
        if answer.status not in (200, 404):
            raise UpstreamFailed("Chroma did not say whether a tenant exists.", code="upstream_refused")
        return answer.status == 200
