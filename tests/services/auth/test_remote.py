"""What another service sees: revocations arrive, the cache outlives the auth service for its seconds, and no longer."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

import pytest

from common.errors import Unauthenticated, Unavailable
from common.identity.principal import Kind
from common.identity.remote import RemoteAuthenticator
from services.auth.postgresql_store import PostgresqlTokenStore
from services.auth.store import TokenStore
from tests.services.auth.fake_store import FakeTokenStore
from tests.services.auth.support import SERVICE_KEY, Clock, RunningAuth, running_auth, until_refused
from tests.waiting import until


def _remote(auth: RunningAuth) -> RemoteAuthenticator:
    return RemoteAuthenticator(auth.address, service_key=SERVICE_KEY, clock=auth.clock.seconds)


async def test_a_revocation_arrives(sql_store: TokenStore, clock: Clock) -> None:
    async with (
        running_auth(sql_store, clock) as auth,
        _remote(auth) as remote,
    ):
        await remote.watching.wait()
        created = await auth.tokens.create("alice", scopes=["chat"])
        other = await auth.tokens.create("alice")
        for _ in range(2):
            principal = await remote.authenticate(created.secret)
            assert (principal.kind, principal.user_id, principal.scopes) == (
                Kind.API_TOKEN,
                "alice",
                frozenset({"chat"}),
            )
            await remote.authenticate(other.secret)
        await auth.tokens.delete(created.token.id, user_id="alice")
        await until_refused(remote, created.secret)
        assert (await remote.authenticate(other.secret)).token_id == other.token.id


async def test_a_revocation_by_another_process_arrives(
    postgresql_store_pair: tuple[PostgresqlTokenStore, PostgresqlTokenStore], clock: Clock
) -> None:
    here, there = postgresql_store_pair
    async with (
        running_auth(here, clock) as one,
        running_auth(there, clock, seed=1) as two,
        _remote(two) as remote,
    ):
        await remote.watching.wait()
        created = await one.tokens.create("alice")
        assert (await remote.authenticate(created.secret)).user_id == "alice"
        await one.tokens.delete(created.token.id, user_id="alice")
        await until_refused(remote, created.secret)


async def test_revocations_are_fast(clock: Clock) -> None:
    """Not a bench: it fails when revocation is slow by an order of magnitude, on a busy machine too."""
    seconds = []
    async with (
        running_auth(FakeTokenStore(now=clock.now), clock) as auth,
        _remote(auth) as remote,
    ):
        await remote.watching.wait()
        for _ in range(20):
            created = await auth.tokens.create("alice")
            await remote.authenticate(created.secret)
            started = time.perf_counter()
            await auth.tokens.delete(created.token.id, user_id="alice")
            await until_refused(remote, created.secret)
            seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[10] < 0.1


async def test_while_the_auth_service_is_away(clock: Clock) -> None:
    store = FakeTokenStore(now=clock.now)
    async with AsyncExitStack() as stack:
        async with running_auth(store, clock) as auth:
            created = await auth.tokens.create("alice")
            other = await auth.tokens.create("alice")
            remote = await stack.enter_async_context(_remote(auth))
            await remote.watching.wait()
            await remote.authenticate(created.secret)
        await until(lambda: not remote.watching.is_set())
        clock.advance(9.9)
        assert (await remote.authenticate(created.secret)).user_id == "alice"
        # Unknown to the cache: nobody can say who that is, so it is not called wrong.
        with pytest.raises(Unavailable):
            await remote.authenticate(other.secret)
        clock.advance(0.2)
        with pytest.raises(Unavailable):
            await remote.authenticate(created.secret)
        async with running_auth(store, clock, listen=auth.address, seed=1):
            await remote.watching.wait()
            assert (await remote.authenticate(created.secret)).user_id == "alice"


async def test_what_was_revoked_before_the_watch_was_back_is_refused(clock: Clock) -> None:
    store = FakeTokenStore(now=clock.now)
    async with AsyncExitStack() as stack:
        async with running_auth(store, clock) as auth:
            created = await auth.tokens.create("alice")
            remote = await stack.enter_async_context(_remote(auth))
            await remote.watching.wait()
            await remote.authenticate(created.secret)
        await until(lambda: not remote.watching.is_set())
        # For example by another process on the same database.
        await store.remove(created.token.id, user_id="alice")
        assert (await remote.authenticate(created.secret)).user_id == "alice"
        async with running_auth(store, clock, listen=auth.address, seed=1):
            await until_refused(remote, created.secret)


async def test_a_refusal_keeps_its_reason(clock: Clock) -> None:
    async with (
        running_auth(FakeTokenStore(now=clock.now), clock) as auth,
        _remote(auth) as remote,
    ):
        for credential, code in (("", "missing_api_key"), ("tp_wrong", "invalid_api_key"), ("a.b.c", "invalid_jwt")):
            with pytest.raises(Unauthenticated) as refusal:
                await remote.authenticate(credential)
            assert refusal.value.code == code
