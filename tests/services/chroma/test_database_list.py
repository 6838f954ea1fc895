"""The list of a user's databases: from a tenant of their own, or out of everybody's."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest

from common.errors import Internal, Unavailable, UpstreamFailed
from services.chroma.database_list import ALL, DatabaseList, Page
from services.chroma.namespace import TENANT, namespace_of
from services.chroma.store import StoreAnswer
from tests.services.chroma.fake_chroma import FakeStore
from tests.services.chroma.memory_chroma import MemoryChroma

ALICE = namespace_of("alice", separator="__")
BOB = namespace_of("bob", separator="__")


class SharedDatabases:
    """The shared tenant's databases by their stored names; ``after_page`` runs when a page was read."""

    def __init__(self, *stored: str) -> None:
        self.stored = set(stored)
        self.after_page: Callable[[], None] = lambda: None

    def answer(self, method: str, target: str) -> StoreAnswer:
        window = re.search(r"limit=(\d+)(?:&offset=(\d+))?$", target)
        assert window is not None
        limit, offset = int(window[1]), int(window[2] or 0)
        page = sorted(self.stored)[offset : offset + limit]
        self.after_page()
        return StoreAnswer(
            200, msgspec.json.encode([{"id": f"id of {name}", "name": name, "tenant": TENANT} for name in page])
        )


def _own(count: int) -> list[str]:
    return [f"n{number:03}" for number in range(count)]


async def test_a_list_costs_what_the_user_has_and_not_what_others_have() -> None:
    store = MemoryChroma()
    for namespace, count in ((ALICE, 7), (BOB, 500)):
        for name in _own(count):
            store.databases[namespace.tenant, namespace.stored_name(name)] = name
            store.databases[TENANT, namespace_of(name, separator="__").stored_name(name)] = name
    read: list[int] = []
    fake = FakeStore(lambda method, target: StoreAnswer(500, b""))

    async def request(method: str, path: str, **options: object) -> StoreAnswer:
        answer = await store.request(method, path, **options)  # type: ignore[arg-type] # passed on as it came
        read.append(len(answer.body))
        return answer

    fake.request = request  # type: ignore[method-assign] # a store that counts the bytes
    databases = DatabaseList(fake)
    for page, expected in (
        (ALL, _own(7)),
        (Page(limit=3), _own(3)),
        (Page(limit=2, offset=5), _own(7)[5:]),
        (Page(limit=2, offset=9), []),
        (Page(offset=6), _own(7)[6:]),
        (Page(limit=0), []),
    ):
        listed = await databases.read(ALICE, tenant=ALICE.tenant, page=page)
        assert [(database.name, database.tenant) for database in listed] == [(name, TENANT) for name in expected]
    assert len(read) == 6
    assert max(read) < 7 * 200


@pytest.mark.parametrize("page_size", [2, 3, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 20])
async def test_all_of_a_users_and_nothing_else_out_of_the_shared_tenant(page_size: int, count: int) -> None:
    names = _own(count)
    shared = SharedDatabases(
        *map(ALICE.stored_name, names), *map(BOB.stored_name, _own(9)), "default_database", "u", "zzz"
    )
    databases = DatabaseList(FakeStore(shared.answer), page_size=page_size)
    listed = await databases.read(ALICE, tenant=TENANT)
    assert [database.name for database in listed] == names
    listed = await databases.read(ALICE, tenant=TENANT, page=Page(limit=2, offset=1))
    assert [database.name for database in listed] == names[1:3]


@pytest.mark.parametrize("change", ["make", "delete"])
async def test_a_list_that_moves_between_pages_is_read_again(change: str) -> None:
    names = _own(10)
    stranger = min(ALICE.prefix, BOB.prefix)[:-1]
    shared = SharedDatabases(*map(ALICE.stored_name, names), *([stranger] if change == "delete" else []))

    def once() -> None:
        shared.stored ^= {stranger}
        shared.after_page = lambda: None

    shared.after_page = once
    databases = DatabaseList(FakeStore(shared.answer), page_size=4)
    assert [database.name for database in await databases.read_shared(ALICE)] == names


async def test_a_list_that_never_stands_still_is_given_up() -> None:
    shared = SharedDatabases(*map(ALICE.stored_name, _own(10)))
    shared.after_page = lambda: shared.stored.symmetric_difference_update({"0"})
    with pytest.raises(Unavailable, match="changed while"):
        await DatabaseList(FakeStore(shared.answer), page_size=4).read_shared(ALICE)


async def test_a_list_without_an_end_is_given_up() -> None:
    shared = SharedDatabases(*(f"x{number:03}" for number in range(250)))
    with pytest.raises(Unavailable, match="too many"):
        await DatabaseList(FakeStore(shared.answer), page_size=2).read_shared(ALICE)


@pytest.mark.parametrize("answer", [StoreAnswer(500, b"[]"), StoreAnswer(200, b"{}"), StoreAnswer(200, b"")])
@pytest.mark.parametrize("tenant", [TENANT, ALICE.tenant])
async def test_a_list_that_is_none_is_an_error(answer: StoreAnswer, tenant: str) -> None:
    with pytest.raises(UpstreamFailed):
        await DatabaseList(FakeStore(lambda method, target: answer)).read(ALICE, tenant=tenant)


@pytest.mark.parametrize("tenant", [TENANT, ALICE.tenant])
async def test_what_another_tenant_holds_is_never_shown(tenant: str) -> None:
    body = msgspec.json.encode([{"id": "x", "name": ALICE.stored_name("mine"), "tenant": BOB.tenant}])
    with pytest.raises(Internal):
        await DatabaseList(FakeStore(lambda method, target: StoreAnswer(200, body))).read(ALICE, tenant=tenant)


async def test_another_users_database_in_the_users_tenant_is_never_shown() -> None:
    body = msgspec.json.encode([{"id": "x", "name": BOB.stored_name("mine"), "tenant": ALICE.tenant}])
    with pytest.raises(Internal):
        await DatabaseList(FakeStore(lambda method, target: StoreAnswer(200, body))).read(ALICE, tenant=ALICE.tenant)
