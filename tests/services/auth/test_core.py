"""Who holds a credential, and what users do with their tokens; no server, no database."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import InvalidRequest, NotFound, Unauthenticated, Unavailable
from common.identity.principal import SCOPES, Kind, Principal
from common.settings import MAX_HEADER_BYTES
from deploy.local.jwt import platform_jwt
from services.auth.core import CreatedToken
from tests.services.auth.fake_store import FakeTokenStore
from tests.services.auth.support import JWT_SECRET, Clock, RunningAuth, assembled

_ALL = frozenset(SCOPES)


@pytest.fixture
def fake_store(clock: Clock) -> FakeTokenStore:
    return FakeTokenStore(now=clock.now)


@pytest.fixture
async def auth(fake_store: FakeTokenStore, clock: Clock) -> RunningAuth:
    return assembled(fake_store, clock, static_keys={"proxy": "p" * 8, "worker": "tp_w.o.rker"})


async def _refused(auth: RunningAuth, credential: str) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refusal:
        await auth.authentication.resolve(credential)
    assert len(credential) < 20 or credential not in refusal.value.message
    return refusal.value


async def test_without_a_credential_where_one_is_required(auth: RunningAuth) -> None:
    assert (await _refused(auth, "")).code == "missing_api_key"


async def test_without_a_credential_where_none_is_required(fake_store: FakeTokenStore, clock: Clock) -> None:
    auth = assembled(fake_store, clock, required=False)
    found = await auth.authentication.resolve("")
    assert found.principal == Principal(Kind.ANONYMOUS, scopes=_ALL)
    assert (found.cache_seconds, found.expires_at) == (10, None)
    # A wrong one is refused all the same: its sender believes to be somebody.
    for wrong in ("wrong", "tp_wrong", "a.b.c"):
        await _refused(auth, wrong)


async def test_static_keys_whatever_they_look_like(auth: RunningAuth) -> None:
    assert await auth.authentication.authenticate("p" * 8) == Principal(Kind.STATIC_KEY, "proxy", scopes=_ALL)
    assert await auth.authentication.authenticate("tp_w.o.rker") == Principal(Kind.STATIC_KEY, "worker", scopes=_ALL)
    for wrong in ("p" * 7, "p" * 9, "P" * 8, " "):
        assert (await _refused(auth, wrong)).code == "invalid_api_key"


async def test_a_jwt_as_large_as_the_edge_lets_in(auth: RunningAuth, clock: Clock) -> None:
    expires = int((clock.now() + timedelta(seconds=9)).timestamp())
    claims = {"sub": "alice", "exp": expires, "groups": "g" * 30_000}
    token = jwt.encode(claims, JWT_SECRET.get_secret_value(), algorithm="HS256")
    assert len(token) > 40_000
    assert (await auth.authentication.resolve(token)).principal.user_id == "alice"
    assert "too long" in (await _refused(auth, "a" * (MAX_HEADER_BYTES + 1))).message


async def test_a_jwt_is_its_subject_with_every_scope(auth: RunningAuth, clock: Clock) -> None:
    token = platform_jwt(JWT_SECRET.get_secret_value(), user_id="alice", now=clock.now(), lifetime=timedelta(seconds=9))
    found = await auth.authentication.resolve(token)
    assert found.principal == Principal(Kind.PLATFORM_JWT, "alice", scopes=_ALL)
    assert found.cache_seconds == 9
    assert found.expires_at == clock.now() + timedelta(seconds=9)
    clock.advance(20)
    assert (await auth.authentication.resolve(token)).cache_seconds == 0


@pytest.mark.parametrize("user_id", ["proxy", "worker"])
async def test_a_jwt_cannot_stand_for_a_static_key(auth: RunningAuth, clock: Clock, user_id: str) -> None:
    token = platform_jwt(JWT_SECRET.get_secret_value(), user_id=user_id, now=clock.now())
    assert "reserved" in (await _refused(auth, token)).message


async def _created(auth: RunningAuth, **options: Any) -> CreatedToken:
    return await auth.tokens.create("alice", **options)


async def test_an_api_token_has_its_scopes(auth: RunningAuth) -> None:
    created = await _created(auth, scopes=["usage", "chat", "usage"])
    found = await auth.authentication.resolve(created.secret)
    assert found.principal == Principal(Kind.API_TOKEN, "alice", created.token.id, frozenset({"chat", "usage"}))
    assert (found.cache_seconds, found.expires_at) == (10, None)
    assert created.token.scopes == ("chat", "usage")


async def test_only_a_hash_is_kept(auth: RunningAuth, fake_store: FakeTokenStore) -> None:
    created = await _created(auth, name="laptop")
    assert created.secret not in repr(fake_store.tokens)
    assert created.token.prefix == created.secret[:9]
    assert created.token.scopes == SCOPES


async def test_a_malformed_token_is_not_looked_up(auth: RunningAuth, fake_store: FakeTokenStore) -> None:
    created = await _created(auth)
    for wrong in ("tp_", created.secret[:-1], created.secret + "x", created.secret.swapcase().replace("TP_", "tp_")):
        await _refused(auth, wrong)
    assert fake_store.looked_up == []


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # The store only grows in between.
async def test_no_mutation_of_a_token_is_taken(auth: RunningAuth, data: st.DataObject) -> None:
    secret = (await auth.tokens.create(f"user {data.draw(st.integers())}")).secret
    start = data.draw(st.integers(0, len(secret)))
    end = data.draw(st.integers(start, len(secret)))
    mutated = secret[:start] + data.draw(st.text("0Aatp_.", max_size=4) | st.text(max_size=4)) + secret[end:]
    if mutated not in (secret, ""):
        await _refused(auth, mutated)


async def test_an_expired_token_is_refused(auth: RunningAuth, clock: Clock) -> None:
    created = await _created(auth, expires_at=clock.now() + timedelta(seconds=60))
    clock.advance(57)
    found = await auth.authentication.resolve(created.secret)
    assert found.cache_seconds == 3
    assert found.expires_at == clock.now() + timedelta(seconds=3)
    clock.advance(3)
    assert (await _refused(auth, created.secret)).code == "expired_api_key"


async def test_a_use_is_noted(auth: RunningAuth, fake_store: FakeTokenStore, clock: Clock) -> None:
    created = await _created(auth)
    for _ in range(3):
        clock.advance(1)
        await auth.authentication.resolve(created.secret)
    assert fake_store.written == []
    await auth.last_use.flush()
    assert fake_store.written == [{created.token.id: clock.now()}]


async def test_a_store_that_is_away_is_503(auth: RunningAuth, fake_store: FakeTokenStore) -> None:
    created = await _created(auth)
    fake_store.away = True
    for call in (
        auth.authentication.resolve(created.secret),
        auth.tokens.list("alice"),
        auth.tokens.create("alice"),
        auth.tokens.delete(created.token.id, user_id="alice"),
    ):
        with pytest.raises(Unavailable):
            await call
    # A credential that needs no look-up works, and a wrong one is wrong.
    assert (await auth.authentication.authenticate("p" * 8)).user_id == "proxy"
    await _refused(auth, "tp_wrong")


async def test_a_credential_of_any_length(auth: RunningAuth) -> None:
    await _refused(auth, "x" * 20_000)


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # Nothing is stored.
async def test_any_text_is_refused(auth: RunningAuth, text: str) -> None:
    await _refused(auth, text)


@pytest.mark.parametrize("scopes", [["admin"], ["chat", "Chat"], [""], ["chat "]])
async def test_an_unknown_scope_is_refused(auth: RunningAuth, scopes: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await _created(auth, scopes=scopes)
    assert refusal.value.param == "scopes"


@pytest.mark.parametrize("name", ["x" * 201, "a\0", "a\nb", "\x7f"])
async def test_a_bad_name_is_refused(auth: RunningAuth, name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await _created(auth, name=name)
    assert refusal.value.param == "name"


@pytest.mark.parametrize("seconds", [0, -1])
async def test_an_expiry_must_be_in_the_future(auth: RunningAuth, clock: Clock, seconds: float) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await _created(auth, expires_at=clock.now() + timedelta(seconds=seconds))
    assert refusal.value.param == "expires_at"


async def test_a_user_has_200_tokens_at_most(auth: RunningAuth) -> None:
    tokens = [await _created(auth) for _ in range(200)]
    with pytest.raises(InvalidRequest, match="delete one first"):
        await _created(auth)
    await auth.tokens.delete(tokens[0].token.id, user_id="alice")
    await _created(auth)


async def test_only_its_user_deletes_a_token(auth: RunningAuth) -> None:
    created = await _created(auth)
    for user_id, token_id in (("bob", created.token.id), ("alice", "tok_unknown"), ("alice", "\0"), ("alice", "")):
        with pytest.raises(NotFound):
            await auth.tokens.delete(token_id, user_id=user_id)
    assert [token.id for token in await auth.tokens.list("alice")] == [created.token.id]
    assert list(await auth.tokens.list("bob")) == []
    await auth.tokens.delete(created.token.id, user_id="alice")
    await _refused(auth, created.secret)
    with pytest.raises(NotFound):
        await auth.tokens.delete(created.token.id, user_id="alice")


async def test_a_client_that_leaves_does_not_stop_its_revocation(auth: RunningAuth) -> None:
    created = await _created(auth)
    watch = auth.revocations.watch()
    assert await anext(watch) == ()
    deleting = asyncio.create_task(auth.tokens.delete(created.token.id, user_id="alice"))
    await asyncio.sleep(0)
    deleting.cancel()
    assert await anext(watch) == (created.token.id,)
    await watch.aclose()
