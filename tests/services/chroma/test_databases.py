"""The list of a user's databases, out of everybody's."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest

from common.errors import Unavailable, UpstreamFailed
from services.chroma.databases import Databases
from services.chroma.namespace import namespace_of
from services.chroma.upstream import UpstreamAnswer
from tests.services.chroma.fake_chroma import FakeUpstream

ALICE = namespace_of("alice", separator="__")
BOB = namespace_of("bob", separator="__")


class Shelf:
    """Chroma's databases by their stored names; ``after_page`` runs when a page was read."""

    def __init__(self, *stored: str) -> None:
        self.stored = set(stored)
        self.after_page: Callable[[], None] = lambda: None

    def answer(self, method: str, target: str) -> UpstreamAnswer:
        window = re.search(r"limit=(\d+)&offset=(\d+)$", target)
        if window is None:
            name = target.rpartition("/")[2]
            return UpstreamAnswer(200 if method == "POST" or name in self.stored else 404, b"{}")
        limit, offset = map(int, window.groups())
        page = sorted(self.stored)[offset : offset + limit]
        self.after_page()
        return UpstreamAnswer(
            200,
            msgspec.json.encode([{"id": f"id of {name}", "name": name, "tenant": "default_tenant"} for name in page]),
        )


def _own(count: int) -> list[str]:
    return [f"n{number:03}" for number in range(count)]


@pytest.mark.parametrize("page", [2, 3, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 20])
async def test_all_of_a_users_and_nothing_else(page: int, count: int) -> None:
    names = _own(count)
    shelf = Shelf(*map(ALICE.stored, names), *map(BOB.stored, _own(9)), "default_database", "u", "zzz")
    databases = Databases(FakeUpstream(shelf.answer), page=page)
    assert [database.name for database in await databases.owned_by(ALICE)] == names


@pytest.mark.parametrize("change", ["make", "delete"])
async def test_a_list_that_moves_between_pages_is_read_again(change: str) -> None:
    names = _own(10)
    stranger = min(ALICE.prefix, BOB.prefix)[:-1]
    shelf = Shelf(*map(ALICE.stored, names), *([stranger] if change == "delete" else []))

    def once() -> None:
        shelf.stored ^= {stranger}
        shelf.after_page = lambda: None

    shelf.after_page = once
    databases = Databases(FakeUpstream(shelf.answer), page=4)
    assert [database.name for database in await databases.owned_by(ALICE)] == names


async def test_a_list_that_never_stands_still_is_given_up() -> None:
    shelf = Shelf(*map(ALICE.stored, _own(10)))
    shelf.after_page = lambda: shelf.stored.symmetric_difference_update({"0"})
    with pytest.raises(Unavailable, match="changed while"):
        await Databases(FakeUpstream(shelf.answer), page=4).owned_by(ALICE)


async def test_a_list_without_an_end_is_given_up() -> None:
    shelf = Shelf(*(f"x{number:03}" for number in range(250)))
    with pytest.raises(Unavailable, match="too many"):
        await Databases(FakeUpstream(shelf.answer), page=2).owned_by(ALICE)


@pytest.mark.parametrize("answer", [UpstreamAnswer(500, b"[]"), UpstreamAnswer(200, b"{}"), UpstreamAnswer(200, b"")])
async def test_a_list_that_is_none_is_an_error(answer: UpstreamAnswer) -> None:
    upstream = FakeUpstream(lambda method, path: answer if "limit" in path else UpstreamAnswer(200, b"{}"))
    with pytest.raises(UpstreamFailed):
        await Databases(upstream).owned_by(ALICE)


async def test_a_default_database_is_made_once_and_looked_for_again_when_told() -> None:
    now = [0.0]
    upstream = FakeUpstream(lambda method, path: UpstreamAnswer(404 if method == "GET" else 200, b"{}"))
    databases = Databases(upstream, clock=lambda: now[0])
    path = "/api/v2/tenants/default_tenant/databases"
    both = [f"GET {path}/{ALICE.prefix}default_database", f"POST {path}"]
    for _ in range(2):
        await databases.ensure_default(ALICE)
    assert upstream.asked == both
    databases.forget_default(ALICE)
    await databases.ensure_default(ALICE)
    now[0] = 60.0
    await databases.ensure_default(ALICE)
    assert upstream.asked == both * 3


@pytest.mark.parametrize(("made", "good"), [(200, True), (409, True), (500, False), (401, False)])
async def test_only_a_database_that_is_there_counts(made: int, good: bool) -> None:  # noqa: FBT001 - a parameter
    upstream = FakeUpstream(lambda method, path: UpstreamAnswer(404 if method == "GET" else made, b"{}"))
    databases = Databases(upstream)
    for _ in range(2):
        if good:
            await databases.ensure_default(ALICE)
        else:
            with pytest.raises(UpstreamFailed):
                await databases.ensure_default(ALICE)
    assert len(upstream.asked) == (2 if good else 4)
