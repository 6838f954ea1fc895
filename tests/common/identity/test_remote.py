"""What a service remembers about who calls, against an auth service that says what the test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from common.background import Health
from common.errors import Unauthenticated, Unavailable
from common.identity.authenticator import NullAuthenticator
from common.identity.principal import SCOPES, Kind, Principal
from common.identity.remote import RemoteAuthenticator
from tests.common.identity.fake_authenticator import FakeAuthenticator
from tests.waiting import until
from turnpike.auth.v1 import auth_pb2, auth_pb2_grpc

_KEY = SecretStr("the service key")


class _Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class _Auth(auth_pb2_grpc.AuthServiceServicer):
    """Says that each credential "tok_N" is the token of that id; its watches send what ``revoke`` is given."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cache_seconds = 10.0
        self.refuse: grpc.StatusCode | None = None
        self.refuse_watches: grpc.StatusCode | None = None
        self.refused_watches = 0
        self.watches: list[asyncio.Queue[list[str]]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def Authenticate(  # noqa: N802 - gRPC's name
        self, request: auth_pb2.AuthenticateRequest, context: Any
    ) -> auth_pb2.AuthenticateResponse:
        assert dict(context.invocation_metadata())["x-turnpike-service-key"] == _KEY.get_secret_value()
        self.asked.append(request.credential)
        await self.may_answer.wait()
        if self.refuse is not None:
            await context.abort(self.refuse, "said no")
        return auth_pb2.AuthenticateResponse(
            principal=auth_pb2.Principal(
                user_id="alice",
                token_id=request.credential,
                kind=auth_pb2.Principal.KIND_API_TOKEN,
                scopes=["chat"],
            ),
            cache_seconds=self.cache_seconds,
        )

    async def WatchRevocations(  # noqa: N802 - gRPC's name
        self, request: auth_pb2.WatchRevocationsRequest, context: Any
    ) -> AsyncIterator[auth_pb2.WatchRevocationsResponse]:
        if self.refuse_watches is not None:
            self.refused_watches += 1
            await context.abort(self.refuse_watches, "said no")
        queue: asyncio.Queue[list[str]] = asyncio.Queue()
        self.watches.append(queue)
        yield auth_pb2.WatchRevocationsResponse()
        while token_ids := await queue.get():
            yield auth_pb2.WatchRevocationsResponse(token_ids=token_ids)

    def revoke(self, *token_ids: str) -> None:
        self.watches[-1].put_nowait(list(token_ids))

    def end_watch(self) -> None:
        self.watches[-1].put_nowait([])


class _Setup:
    """The auth service and a service's authenticator."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.auth = _Auth()
        self.clock = _Clock()
        self.server = grpc.aio.server()
        self._stack = stack

    async def start(self, *, capacity: int = 10_000, health: Health | None = None) -> RemoteAuthenticator:
        auth_pb2_grpc.add_AuthServiceServicer_to_server(self.auth, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self._stack.push_async_callback(self.server.stop, 0)
        remote = RemoteAuthenticator(
            f"127.0.0.1:{self.port}", service_key=_KEY, capacity=capacity, health=health, clock=self.clock
        )
        await self._stack.enter_async_context(remote)
        return remote


@pytest.fixture
async def setup() -> AsyncIterator[_Setup]:
    async with AsyncExitStack() as stack:
        yield _Setup(stack)


async def test_a_watch_that_fails_in_an_unexpected_way_is_logged_and_started_again() -> None:
    # gRPC cannot encode such a key, and does not say so with the error of a call.
    remote = RemoteAuthenticator("127.0.0.1:9", service_key=SecretStr("\udce9"))
    with capture_logs() as logs:
        async with remote:
            await until(lambda: len(logs) == 2)
            assert not remote.watching.is_set()
    assert [(line["event"], line["failures"]) for line in logs] == [
        ("a background loop failed", 1),
        ("a background loop failed", 2),
    ]


async def test_an_answer_is_remembered_for_its_seconds(setup: _Setup) -> None:
    remote = await setup.start()
    await remote.watching.wait()
    principal = await remote.authenticate("tok_1")
    assert principal == Principal(Kind.API_TOKEN, "alice", "tok_1", frozenset({"chat"}))
    setup.clock.seconds += 9.9
    assert await remote.authenticate("tok_1") is principal
    assert setup.auth.asked == ["tok_1"]
    setup.clock.seconds += 0.1
    await remote.authenticate("tok_1")
    assert setup.auth.asked == ["tok_1", "tok_1"]


async def test_an_answer_without_seconds_is_not_remembered(setup: _Setup) -> None:
    remote = await setup.start()
    await remote.watching.wait()
    setup.auth.cache_seconds = 0
    for _ in range(2):
        await remote.authenticate("tok_1")
    assert len(setup.auth.asked) == 2


async def test_nothing_is_remembered_while_nobody_watches(setup: _Setup) -> None:
    setup.auth.refuse_watches = grpc.StatusCode.UNAVAILABLE
    remote = await setup.start()
    for _ in range(2):
        await remote.authenticate("tok_1")
    assert len(setup.auth.asked) == 2
    assert not remote.watching.is_set()


async def test_a_refusal_is_not_remembered(setup: _Setup) -> None:
    remote = await setup.start()
    await remote.watching.wait()
    setup.auth.refuse = grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(Unauthenticated, match="said no"):
        await remote.authenticate("tok_1")
    setup.auth.refuse = None
    assert (await remote.authenticate("tok_1")).user_id == "alice"


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.PERMISSION_DENIED]
)
async def test_any_other_failure_is_503(setup: _Setup, code: grpc.StatusCode) -> None:
    remote = await setup.start()
    setup.auth.refuse = code
    with capture_logs() as logs, pytest.raises(Unavailable) as failure:
        await remote.authenticate("tok_of_a_secret")
    assert "said no" not in failure.value.message
    assert "tok_of_a_secret" not in repr(logs)


async def test_the_oldest_is_forgotten_beyond_the_capacity(setup: _Setup) -> None:
    remote = await setup.start(capacity=2)
    await remote.watching.wait()
    for credential in ("tok_1", "tok_2", "tok_3", "tok_3", "tok_2", "tok_1"):
        await remote.authenticate(credential)
    assert setup.auth.asked == ["tok_1", "tok_2", "tok_3", "tok_1"]


async def test_a_revocation_forgets_its_token_and_no_other(setup: _Setup) -> None:
    remote = await setup.start()
    await remote.watching.wait()
    for credential in ("tok_1", "tok_2", "tok_3"):
        await remote.authenticate(credential)
    setup.auth.revoke("tok_1", "tok_3", "tok_unknown")
    async with asyncio.timeout(30):
        while len(setup.auth.asked) == 3:
            await remote.authenticate("tok_1")
            await asyncio.sleep(0)
    await remote.authenticate("tok_2")
    await remote.authenticate("tok_3")
    assert setup.auth.asked == ["tok_1", "tok_2", "tok_3", "tok_1", "tok_3"]


async def test_a_new_watch_forgets_everything(setup: _Setup) -> None:
    remote = await setup.start()
    await remote.watching.wait()
    await remote.authenticate("tok_1")
    setup.auth.end_watch()
    await until(lambda: len(setup.auth.watches) == 2 and remote.watching.is_set())
    await remote.authenticate("tok_1")
    assert setup.auth.asked == ["tok_1", "tok_1"]


async def test_an_answer_that_crossed_a_revocation_is_not_remembered_nor_shared(setup: _Setup) -> None:
    remote = await setup.start()
    await remote.watching.wait()
    await remote.authenticate("tok_2")
    setup.auth.may_answer.clear()
    before = asyncio.create_task(remote.authenticate("tok_1"))
    await until(lambda: setup.auth.asked == ["tok_2", "tok_1"])
    setup.auth.revoke("tok_1", "tok_2")
    # The revocation has arrived when this one is asked about again.
    probes: list[asyncio.Task[Principal]] = []
    async with asyncio.timeout(30):
        while setup.auth.asked.count("tok_2") == 1:
            probes.append(asyncio.create_task(remote.authenticate("tok_2")))
            await asyncio.sleep(0)
    after = asyncio.create_task(remote.authenticate("tok_1"))
    await until(lambda: setup.auth.asked.count("tok_1") == 2)
    setup.auth.may_answer.set()
    await asyncio.gather(before, after, *probes)


async def test_calls_at_the_same_time_share_one_question(setup: _Setup) -> None:
    remote = await setup.start()
    await remote.watching.wait()
    setup.auth.may_answer.clear()
    first, *others = [asyncio.create_task(remote.authenticate("tok_1")) for _ in range(10)]
    await until(lambda: bool(setup.auth.asked))
    # The first of them leaves; the others still get their answer.
    first.cancel()
    setup.auth.may_answer.set()
    assert {principal.token_id for principal in await asyncio.gather(*others)} == {"tok_1"}
    assert setup.auth.asked == ["tok_1"]


async def test_everybody_may_leave_before_a_refusal(setup: _Setup) -> None:
    remote = await setup.start()
    setup.auth.may_answer.clear()
    setup.auth.refuse = grpc.StatusCode.UNAUTHENTICATED
    only = asyncio.create_task(remote.authenticate("tok_1"))
    await until(lambda: bool(setup.auth.asked))
    only.cancel()
    setup.auth.may_answer.set()
    with pytest.raises(Unauthenticated):
        await remote.authenticate("tok_1")


async def test_a_wrong_service_key_is_said_once(setup: _Setup) -> None:
    setup.auth.refuse_watches = grpc.StatusCode.PERMISSION_DENIED
    with capture_logs() as logs:
        remote = await setup.start()
        await until(lambda: bool(logs))
        setup.auth.refuse_watches = None
        await remote.watching.wait()
    assert [entry["code"] for entry in logs if "code" in entry] == ["PERMISSION_DENIED"]


async def test_a_wrong_service_key_shows_in_the_health_and_is_tried_less_and_less(setup: _Setup) -> None:
    setup.auth.refuse_watches = grpc.StatusCode.PERMISSION_DENIED
    health = Health()
    with capture_logs():
        await setup.start(health=health)
        await until(lambda: bool(health.failing))
    assert health.failing == {"watch for revocations"}
    assert setup.auth.refused_watches == 5


async def test_an_auth_service_that_is_away_is_no_failure_of_the_watch(setup: _Setup) -> None:
    setup.auth.refuse_watches = grpc.StatusCode.UNAVAILABLE
    health = Health()
    with capture_logs() as logs:
        remote = await setup.start(health=health)
        await until(lambda: setup.auth.refused_watches == 10)
        setup.auth.refuse_watches = None
        await remote.watching.wait()
    assert not health.failing
    assert [entry["event"] for entry in logs] == ["the watch for revocations ended"]


async def test_the_credential_itself_is_not_kept(setup: _Setup) -> None:
    remote = await setup.start()
    await remote.watching.wait()
    setup.auth.cache_seconds = 60
    await remote.authenticate("tok_of_a_secret")
    assert b"tok_of_a_secret" not in b"".join(remote._cache)


async def test_the_null_one_lets_everybody_in() -> None:
    principal = await NullAuthenticator().authenticate("anything")
    assert principal == Principal(Kind.ANONYMOUS, scopes=frozenset(SCOPES))


async def test_the_fake_one_knows_what_it_was_given() -> None:
    alice = Principal(Kind.PLATFORM_JWT, "alice")
    fake = FakeAuthenticator({"a": alice})
    assert await fake.authenticate("a") is alice
    with pytest.raises(Unauthenticated):
        await fake.authenticate("b")
    assert fake.asked == ["a", "b"]
