"""Resolves credentials through the auth service, caches answers for seconds, and drops revoked ones at once."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from pydantic import SecretStr

from common.background import BackgroundLoop, Health
from common.errors import TurnpikeError, Unauthenticated, Unavailable
from common.identity.principal import Kind, Principal
from common.serving.auth import SERVICE_KEY_HEADER
from common.serving.channel import inner_channel
from turnpike.auth.v1 import auth_pb2, auth_pb2_grpc

_log = structlog.get_logger(__name__)

_KINDS = {
    auth_pb2.Principal.KIND_ANONYMOUS: Kind.ANONYMOUS,
    auth_pb2.Principal.KIND_API_TOKEN: Kind.API_TOKEN,
    auth_pb2.Principal.KIND_PLATFORM_JWT: Kind.PLATFORM_JWT,
    auth_pb2.Principal.KIND_STATIC_KEY: Kind.STATIC_KEY,
}
_TIMEOUT_SECONDS = 5.0
_RECONNECT_SECONDS = 0.02
_RETRY_AT_MOST_SECONDS = 5.0
_MAX_RECONNECT_BACKOFF_MS = 50


@dataclass(frozen=True, slots=True)
class _CacheEntry:
    principal: Principal
    expires_at: float


class RemoteAuthenticator:
    """Asks the auth service; an async context manager that watches for revocations while it is open.

    Answers are cached for as long as the auth service allows, ``capacity`` of them at most. Credentials are kept only
    as hashes, under a key that dies with the process. While the auth service is away, what is cached stays good until
    its time is over. ``health`` shows a watch that keeps failing for a reason other than that.
    """

    def __init__(
        self,
        address: str,
        *,
        service_key: SecretStr,
        capacity: int = 10_000,
        health: Health | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = inner_channel(address, max_reconnect_backoff_ms=_MAX_RECONNECT_BACKOFF_MS)
        self._stub = auth_pb2_grpc.AuthServiceStub(self._channel)
        self._metadata = ((SERVICE_KEY_HEADER, service_key.get_secret_value()),)
        self._capacity = capacity
        self._hash_key = secrets.token_bytes(32)
        self._clock = clock
        self._cache: OrderedDict[bytes, _CacheEntry] = OrderedDict()
        self._pending: dict[bytes, asyncio.Task[Principal]] = {}
        # Counts what the watch reported, so that an answer that was on its way during a revocation is not cached.
        self._revocations = 0
        self._watch = BackgroundLoop(
            "watch for revocations",
            self._watch_revocations,
            interval_seconds=_RECONNECT_SECONDS,
            retry_at_most_seconds=_RETRY_AT_MOST_SECONDS,
            health=health,
        )
        self._last_code: grpc.StatusCode | None = None
        self.watching = asyncio.Event()

    async def __aenter__(self) -> RemoteAuthenticator:
        """Start to watch for revocations."""
        await self._watch.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop watching and close the channel."""
        await self._watch.__aexit__()
        await self._channel.close()

    async def authenticate(self, credential: str) -> Principal:
        """Return who holds the credential; raises Unauthenticated, or Unavailable when the auth service is away."""
        given = credential.encode("utf-8", "surrogateescape")
        key = hashlib.blake2b(given, digest_size=32, key=self._hash_key).digest()
        entry = self._cache.get(key)
        if entry is not None:
            if entry.expires_at > self._clock():
                return entry.principal
            del self._cache[key]
        pending = self._pending.get(key)
        if pending is None:
            pending = asyncio.create_task(self._resolve(credential, key))
            self._pending[key] = pending
            pending.add_done_callback(lambda task: self._remove_pending(key, task))
        # Shielded: the first of several waiting calls may be cancelled by its client, and the others still wait.
        return await asyncio.shield(pending)

    def _remove_pending(self, key: bytes, task: asyncio.Task[Principal]) -> None:
        if self._pending.get(key) is task:
            del self._pending[key]
        if not task.cancelled():
            task.exception()  # Looked at here, for the case that every caller has left.

    async def _resolve(self, credential: str, key: bytes) -> Principal:
        revocations = self._revocations
        requested_at = self._clock()
        try:
            answer = await self._stub.Authenticate(
                auth_pb2.AuthenticateRequest(credential=credential), metadata=self._metadata, timeout=_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None
        principal = Principal(
            _KINDS[answer.principal.kind],
            answer.principal.user_id,
            answer.principal.token_id,
            frozenset(answer.principal.scopes),
        )
        if answer.cache_seconds > 0 and revocations == self._revocations and self.watching.is_set():
            while len(self._cache) >= self._capacity:
                self._cache.popitem(last=False)
            self._cache[key] = _CacheEntry(principal, requested_at + answer.cache_seconds)
        return principal

    async def _watch_revocations(self) -> None:
        try:
            await self._read_revocations()
        except grpc.aio.AioRpcError as error:
            # Said once and not at each attempt, of which there are fifty a second while the auth service is away.
            if self.watching.is_set() or error.code() is not self._last_code:
                _log.warning("the watch for revocations ended", code=error.code().name, details=error.details())
            self._last_code = error.code()
            # An auth service that starts again must be found at once; any other failure is asked about less and less.
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        finally:
            self.watching.clear()

    async def _read_revocations(self) -> None:
        stream = self._stub.WatchRevocations(
            auth_pb2.WatchRevocationsRequest(), metadata=self._metadata, wait_for_ready=True
        )
        greeted = False
        async for message in stream:
            self._revocations += 1
            # A call that comes from now on must not share an answer that was asked for before.
            self._pending.clear()
            if not greeted:
                # Revocations may have been missed while nobody watched.
                self._cache.clear()
                greeted = True
                self._watch.succeeded()
                self.watching.set()
            revoked = set(message.token_ids)
            if revoked:
                for key in [key for key, entry in self._cache.items() if entry.principal.token_id in revoked]:
                    del self._cache[key]


def _translated(error: grpc.aio.AioRpcError) -> TurnpikeError:
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(error.details() or "The credential was refused.", code=_reason(error))
    _log.warning("the auth service did not answer", code=error.code().name, details=error.details())
    return Unavailable("The auth service is not available; try again.", code="auth_unavailable")


def _reason(error: grpc.aio.AioRpcError) -> str | None:
    """Return the error's code as the auth service's error interceptor packed it; None when it did not."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = ErrorInfo()
    try:
        details = Status.FromString(packed).details
    except (DecodeError, TypeError):
        return None
    return info.reason.lower() if details and details[0].Unpack(info) and info.reason else None
