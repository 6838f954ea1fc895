"""Which tenant a user's databases lie in, and the default database there."""

from __future__ import annotations

import pytest

from common.errors import UpstreamFailed
from services.chroma.database_list import DatabaseList
from services.chroma.default_database import DefaultDatabases
from services.chroma.namespace import TENANT, namespace_of
from services.chroma.store import Store, StoreAnswer
from services.chroma.tenancy import Tenancy
from tests.services.chroma.fake_chroma import FakeStore
from tests.services.chroma.memory_chroma import MemoryChroma

ALICE = namespace_of("alice", separator="__")
BOB = namespace_of("bob", separator="__")
OWN = f"/api/v2/tenants/{ALICE.tenant}"
DEFAULT = ALICE.stored_name("default_database")


def _tenancy(store: Store, **options: object) -> Tenancy:
    return Tenancy(store, database_list=DatabaseList(store), **options)  # type: ignore[arg-type] # passed on


async def test_a_new_user_gets_a_tenant_of_their_own_once() -> None:
    store = MemoryChroma()
    store.databases[TENANT, BOB.stored_name("mine")] = "of another user"
    tenancy = _tenancy(store)
    assert [await tenancy.tenant_of(ALICE) for _ in range(2)] == [ALICE.tenant] * 2
    assert store.requests == [f"GET {OWN}", f"GET /api/v2/tenants/{TENANT}/databases", "POST /api/v2/tenants"]
    assert ALICE.tenant in store.tenants
    # Another process of the gateway asks once, and reads nobody's databases.
    store.requests.clear()
    assert await _tenancy(store).tenant_of(ALICE) == ALICE.tenant
    assert store.requests == [f"GET {OWN}"]


async def test_who_has_databases_in_the_shared_tenant_keeps_them_there() -> None:
    store = MemoryChroma()
    store.databases[TENANT, ALICE.stored_name("mine")] = "from before"
    tenancy = _tenancy(store)
    assert await tenancy.tenant_of(ALICE) == TENANT
    assert await tenancy.tenant_for_new_database(ALICE) == TENANT
    assert await DefaultDatabases(store, tenancy=tenancy).ensure(ALICE) == TENANT
    assert store.tenants == {TENANT}
    assert (TENANT, DEFAULT) in store.databases


async def test_who_deleted_everything_in_the_shared_tenant_loses_nothing_that_is_made_later() -> None:
    store = MemoryChroma()
    store.databases[TENANT, ALICE.stored_name("mine")] = "from before"
    slow, quick = _tenancy(store), _tenancy(store)
    assert await slow.tenant_of(ALICE) == TENANT
    del store.databases[TENANT, ALICE.stored_name("mine")]
    assert await quick.tenant_of(ALICE) == ALICE.tenant
    # This process still has the old answer, and must not make a database where no other process looks.
    assert await slow.tenant_of(ALICE) == TENANT
    assert await DefaultDatabases(store, tenancy=slow).ensure(ALICE) == ALICE.tenant
    assert await slow.tenant_of(ALICE) == ALICE.tenant


async def test_one_tenant_for_all_users_asks_for_none() -> None:
    store = MemoryChroma()
    tenancy = _tenancy(store, tenant_per_user=False)
    assert await tenancy.tenant_of(ALICE) == await tenancy.tenant_for_new_database(ALICE) == TENANT
    assert store.requests == []


@pytest.mark.parametrize(
    ("exists", "listed", "made"), [(500, 200, 200), (401, 200, 200), (404, 500, 200), (404, 200, 403), (404, 200, 500)]
)
async def test_a_failure_decides_nothing(exists: int, listed: int, made: int) -> None:
    def answer(method: str, target: str) -> StoreAnswer:
        if method == "POST":
            return StoreAnswer(made, b"{}")
        return StoreAnswer(listed, b"[]") if "/databases" in target else StoreAnswer(exists, b"{}")

    store = FakeStore(answer)
    tenancy = _tenancy(store)
    for _ in range(2):
        with pytest.raises(UpstreamFailed):
            await tenancy.tenant_of(ALICE)
    # Nothing that changes something was sent twice for one request.
    assert sum(request.startswith("POST") for request in store.requests) == (2 if made != 200 else 0)


@pytest.mark.parametrize("made", [200, 201, 409])
async def test_another_request_may_make_the_tenant_first(made: int) -> None:
    def answer(method: str, target: str) -> StoreAnswer:
        if method == "POST":
            return StoreAnswer(made, b"{}")
        return StoreAnswer(200, b"[]") if "/databases" in target else StoreAnswer(404, b"{}")

    assert await _tenancy(FakeStore(answer)).tenant_of(ALICE) == ALICE.tenant


async def test_a_tenant_is_looked_for_again_after_a_minute() -> None:
    now = [0.0]
    store = MemoryChroma()
    tenancy = _tenancy(store, clock=lambda: now[0])
    await tenancy.tenant_of(ALICE)
    store.requests.clear()
    now[0] = 60.0
    await tenancy.tenant_of(ALICE)
    assert store.requests == [f"GET {OWN}"]


async def test_a_default_database_is_made_once_and_looked_for_again_when_told() -> None:
    now = [0.0]
    store = MemoryChroma()
    tenancy = _tenancy(store)
    await tenancy.tenant_of(ALICE)
    databases = DefaultDatabases(store, tenancy=tenancy, clock=lambda: now[0])
    store.requests.clear()
    look, make = f"GET {OWN}/databases/{DEFAULT}", f"POST {OWN}/databases"
    for _ in range(2):
        assert await databases.ensure(ALICE) == ALICE.tenant
    assert store.requests == [look, make]
    databases.discard(ALICE)
    await databases.ensure(ALICE)
    now[0] = 60.0
    await databases.ensure(ALICE)
    assert store.requests == [look, make, look, look]


@pytest.mark.parametrize(("made", "good"), [(200, True), (409, True), (500, False), (401, False)])
async def test_only_a_database_that_is_there_counts(made: int, good: bool) -> None:  # noqa: FBT001 - a parameter
    def answer(method: str, target: str) -> StoreAnswer:
        if method == "POST":
            return StoreAnswer(made, b"{}")
        return StoreAnswer(404 if target.endswith(DEFAULT) else 200, b"{}")

    store = FakeStore(answer)
    databases = DefaultDatabases(store, tenancy=_tenancy(store))
    for _ in range(2):
        if good:
            await databases.ensure(ALICE)
        else:
            with pytest.raises(UpstreamFailed):
                await databases.ensure(ALICE)
    assert sum(request.startswith("POST") for request in store.requests) == (1 if good else 2)
