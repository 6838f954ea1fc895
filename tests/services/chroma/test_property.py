"""No interleaving of operations lets one user observe another: random ones, each checked against a model."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Coroutine
from typing import Any, ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from services.chroma.namespace import namespace_of
from tests.services.chroma.memory_chroma import MemoryChroma
from tests.services.chroma.support import SEPARATOR, Service, running_service
from tests.services.chroma.tenant import ON_RECORDS, SPELLINGS, Collection, Tenant

USER_IDS: Final = (
    "alice",
    "alice__",
    "Alice@Example.com",
    "älïce ☃ 李",
    "..",
    "a/b%2F?database=mine#x",
    "__",
    "x" * 2000,
    "\x00\n",
    " ",
)
"""Ids that make trouble where they are used as they are; each gets something that no other run has."""
_COLLECTIONS: Final = ("notes", "a.b-c_d", "NOTES")
_RECORDS: Final = ("a", "b", "c")


def _machine(*, examples_share: int, steps: int) -> settings:
    """Return settings for one out of ``examples_share`` of the examples that other tests have."""
    return settings(
        max_examples=settings().max_examples // examples_share,
        stateful_step_count=steps,
        deadline=None,
        # Shrinking asks the server thousands of times; the failing steps say enough.
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def tenants(service: Service, ids: tuple[str, ...]) -> tuple[list[Tenant], list[str]]:
    """Make users that no Chroma has seen, and the names of databases that they all use.

    Nobody may see another's marker, anybody's tenant, or anybody's prefix except where it stands in a name that they
    chose.
    """
    run = uuid.uuid4().hex
    made = [Tenant(service, f"{name}{run}", marker=f"marker-{run}-{number}") for number, name in enumerate(ids)]
    namespaces = [namespace_of(tenant.user_id, separator=SEPARATOR) for tenant in made]
    prefixes = [namespace.prefix for namespace in namespaces]
    stored_tenants = [namespace.tenant for namespace in namespaces]
    names = ["default_database", "mine", "a__b", *(f"{prefix}mine" for prefix in prefixes[:2])]
    for tenant in made:
        tenant.forbidden = {*prefixes, *stored_tenants, *(other.marker for other in made if other is not tenant)}
        tenant.words = sorted(names, key=len, reverse=True)
    return made, names


class Interleaving(RuleBasedStateMachine):
    """Several users on one Chroma, in any order."""

    service: ClassVar[Service]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.users: list[Tenant] = []
        self.seen: list[str] = []

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    @initialize(ids=st.permutations(USER_IDS))
    def arrive(self, ids: list[str]) -> None:
        self.users, self.names = tenants(self.service, tuple(ids[:3]))
        for user in self.users[:2]:
            self.run(user.create_database("mine"))
            self.run(user.create_collection("mine", "notes"))
            self.run(user.write("mine", "notes", how="add", ids=["a"], spelling="plain"))
            self.seen.append(user.databases["mine"]["notes"].id)

    def user(self, data: st.DataObject) -> Tenant:
        tenant = data.draw(st.sampled_from(self.users), "user")
        tenant.over = data.draw(st.sampled_from(("http", "grpc")), "over")
        return tenant

    def name(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.names), "database")

    def existing(self, data: st.DataObject, user: Tenant) -> tuple[str, str] | None:
        places = [(database, name) for database, found in user.databases.items() for name in found]
        return data.draw(st.sampled_from(places), "collection") if places else None

    @rule(data=st.data(), what=st.sampled_from(("create_database", "create_database", "see_database")))
    def database(self, data: st.DataObject, what: str) -> None:
        self.run(getattr(self.user(data), what)(self.name(data)))

    @rule(data=st.data())
    def delete_database(self, data: st.DataObject) -> None:
        self.run(self.user(data).delete_database(self.name(data)))

    @rule(data=st.data(), limit=st.none() | st.integers(0, 4), offset=st.none() | st.integers(0, 4))
    def databases(self, data: st.DataObject, limit: int | None, offset: int | None) -> None:
        self.run(self.user(data).see_databases(limit=limit, offset=offset))

    @rule(data=st.data(), name=st.sampled_from(_COLLECTIONS), get_or_create=st.booleans())
    def create_collection(self, data: st.DataObject, name: str, get_or_create: bool) -> None:  # noqa: FBT001 - drawn
        user, database = self.user(data), self.name(data)
        self.run(user.create_collection(database, name, get_or_create=get_or_create))
        self.seen += [collection.id for collection in user.databases.get(database, {}).values()]

    @rule(data=st.data(), name=st.sampled_from(_COLLECTIONS), what=st.sampled_from(("see", "delete")))
    def collection(self, data: st.DataObject, name: str, what: str) -> None:
        self.run(getattr(self.user(data), f"{what}_collection")(self.name(data), name))

    @rule(data=st.data(), page=st.integers(1, 3))
    def collections(self, data: st.DataObject, page: int) -> None:
        self.run(self.user(data).see_collections(self.name(data), page=page))

    @rule(data=st.data(), new_name=st.sampled_from(_COLLECTIONS), spelling=st.sampled_from(sorted(SPELLINGS)))
    def rename(self, data: st.DataObject, new_name: str, spelling: str) -> None:
        user = self.user(data)
        if place := self.existing(data, user):
            self.run(user.rename_collection(*place, new_name=new_name, spelling=spelling))

    @rule(
        data=st.data(),
        how=st.sampled_from(("add", "upsert", "update", "delete")),
        ids=st.lists(st.sampled_from(_RECORDS), min_size=1, unique=True),
        spelling=st.sampled_from(sorted(SPELLINGS)),
    )
    def records(self, data: st.DataObject, how: str, ids: list[str], spelling: str) -> None:
        user = self.user(data)
        if place := self.existing(data, user):
            self.run(user.write(*place, how=how, ids=ids, spelling=spelling))
            self.run(user.see_records(*place, spelling=spelling))

    @rule(data=st.data(), operation=st.sampled_from(sorted(ON_RECORDS)), spelling=st.sampled_from(sorted(SPELLINGS)))
    def intrude(self, data: st.DataObject, operation: str, spelling: str) -> None:
        user, database = self.user(data), self.name(data)
        own = {collection.id for collection in user.databases.get(database, {}).values()}
        strange = [seen for seen in [*self.seen, str(uuid.uuid4())] if seen not in own]
        collection_id = data.draw(st.sampled_from(strange), "collection")
        self.run(user.intrude(database, collection_id, operation=operation, spelling=spelling))

    def teardown(self) -> None:
        for user in self.users:
            self.run(user.see_everything())


async def _run(service: Service, *, machine_settings: settings) -> None:
    class Running(Interleaving):
        pass

    Running.service, Running.loop = service, asyncio.get_running_loop()
    await asyncio.to_thread(run_state_machine_as_test, Running, settings=machine_settings)


@pytest.mark.hypothesis
@pytest.mark.parametrize("tenant_per_user", [True, False])
async def test_no_interleaving_lets_one_user_observe_another(tenant_per_user: bool) -> None:  # noqa: FBT001 - a parameter
    async with running_service(MemoryChroma(), tenant_per_user=tenant_per_user) as service:
        await _run(service, machine_settings=_machine(examples_share=8, steps=50))


@pytest.mark.hypothesis
async def test_no_interleaving_does_on_a_real_chroma(service: Service) -> None:
    """A few of the same steps: they also show that the Chroma in memory answers as the real one."""
    await _run(service, machine_settings=_machine(examples_share=25, steps=40))


async def _live(user: Tenant, everybody: list[Tenant], names: list[str], *, choose: random.Random, rounds: int) -> None:
    """Do things at random, at the same time as the others."""
    for _ in range(rounds):
        user.over = choose.choice(("http", "grpc"))
        database, name = choose.choice(names), choose.choice(_COLLECTIONS)
        await user.create_database(database)
        await user.create_collection(database, name, get_or_create=True)
        ids = choose.sample(_RECORDS, 2)
        spelling = choose.choice(sorted(SPELLINGS))
        await user.write(database, name, how=choose.choice(("add", "upsert", "update")), ids=ids, spelling=spelling)
        await user.see_databases()
        await user.see_records(database, name, spelling=spelling)
        other = choose.choice([other for other in everybody if other is not user])
        strange = [collection for found in other.databases.values() for collection in found.values()]
        target = choose.choice([*strange, Collection(str(uuid.uuid4()))])
        operation = choose.choice(sorted(ON_RECORDS))
        await user.intrude(choose.choice(names), target.id, operation=operation, spelling=spelling)
        if choose.random() < 0.2:
            await user.delete_database(database)
    await user.see_everything()


async def _live_together(service: Service, *, seed: int, rounds: int) -> None:
    users, names = tenants(service, USER_IDS[:6])
    await asyncio.gather(
        *(
            _live(user, users, names, choose=random.Random(seed + number), rounds=rounds)
            for number, user in enumerate(users)
        )
    )


@given(seed=st.integers(0, 2**32))
@settings(max_examples=2)
async def test_users_at_the_same_time_do_not_meet(seed: int) -> None:
    async with running_service(MemoryChroma()) as service:
        await _live_together(service, seed=seed, rounds=12)


async def test_users_at_the_same_time_do_not_meet_on_a_real_chroma(service: Service) -> None:
    await _live_together(service, seed=0, rounds=5)
