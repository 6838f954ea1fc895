"""Who holds a credential, and which API tokens a user has."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from common.errors import InvalidRequest, NotFound, Unauthenticated
from common.identity.principal import SCOPES, Kind, Principal
from common.settings import MAX_HEADER_BYTES
from services.auth.jwt import JwtVerifier, looks_like_jwt
from services.auth.last_use import LastUse
from services.auth.revocations import Revocations
from services.auth.store import StoredToken, TokenStore
from services.auth.tokens import (
    PREFIX,
    RandomBelow,
    display_prefix,
    hash_of,
    is_token_id,
    is_well_formed,
    new_token,
    new_token_id,
)

TOKENS_OF_ONE_USER: Final = 200
NAME_LENGTH: Final = 200
RESERVED_USERS: Final = ("proxy", "worker")
"""The users that the static keys stand for; a JWT for one of them would mix two tenants."""

_ALL: Final = frozenset(SCOPES)


@dataclass(frozen=True, slots=True)
class ResolvedCaller:
    """A caller, for how many seconds this may be cached, and when the credential expires."""

    principal: Principal
    cache_seconds: float
    expires_at: datetime | None = None


class Authentication:
    """Resolves credentials.

    ``static_keys`` are keys by the user that each stands for. ``required`` says whether a call without any credential
    is refused; a wrong one always is. ``cache_seconds`` is the longest that an answer may be cached.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        jwts: JwtVerifier,
        last_use: LastUse,
        static_keys: Mapping[str, str],
        required: bool,
        cache_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._jwts = jwts
        self._last_use = last_use
        self._static_keys = {user_id: _digest(key) for user_id, key in static_keys.items()}
        self._required = required
        self._cache_seconds = cache_seconds
        self._now = now

    async def authenticate(self, credential: str) -> Principal:
        """Return who holds the credential: the ``Authenticator`` of this service's own RPCs."""
        return (await self.resolve(credential)).principal

    async def resolve(self, credential: str) -> ResolvedCaller:
        """Return who holds the credential, "" for none; raises Unauthenticated, or Unavailable when nobody can say."""
        if not credential:
            return self._anonymous()
        if len(credential) > MAX_HEADER_BYTES:
            raise _refused("it is too long")
        # First, because an operator may choose a key that looks like something else.
        user_id = self._static_user(credential)
        if user_id is not None:
            principal = Principal(Kind.STATIC_KEY, user_id, scopes=_ALL)
            return ResolvedCaller(principal, self._cache_seconds)
        if credential.startswith(PREFIX):
            return await self._token_holder(credential)
        if looks_like_jwt(credential):
            return await self._jwt_holder(credential)
        raise _refused("it is not known")

    def _anonymous(self) -> ResolvedCaller:
        if self._required:
            raise Unauthenticated(
                "Missing credential: send 'Authorization: Bearer <token>' or x-api-key.", code="missing_api_key"
            )
        return ResolvedCaller(Principal(Kind.ANONYMOUS, scopes=_ALL), self._cache_seconds)

    def _static_user(self, credential: str) -> str | None:
        given = _digest(credential)
        found = None
        for user_id, key in self._static_keys.items():
            # Every key is compared, and in constant time, so that the time taken tells nothing.
            if hmac.compare_digest(given, key) and found is None:
                found = user_id
        return found

    async def _token_holder(self, credential: str) -> ResolvedCaller:
        if not is_well_formed(credential):
            raise _refused("it is not a complete API token")
        token = await self._store.by_hash(hash_of(credential))
        if token is None:
            raise _refused("it is not known, or it was revoked")
        now = self._now()
        if token.expires_at is not None and token.expires_at <= now:
            raise Unauthenticated("The API token has expired.", code="expired_api_key")
        self._last_use.note(token.id, now)
        principal = Principal(Kind.API_TOKEN, token.user_id, token.id, frozenset(token.scopes))
        return self._until(token.expires_at, principal, now=now)

    async def _jwt_holder(self, credential: str) -> ResolvedCaller:
        claims = await self._jwts.verify(credential)
        if claims.subject in RESERVED_USERS:
            raise Unauthenticated("The JWT is not valid: its sub is reserved.", code="invalid_jwt")
        principal = Principal(Kind.PLATFORM_JWT, claims.subject, scopes=_ALL)
        return self._until(claims.expires_at, principal, now=self._now())

    def _until(self, expires_at: datetime | None, principal: Principal, *, now: datetime) -> ResolvedCaller:
        seconds = self._cache_seconds
        if expires_at is not None:
            seconds = max(0.0, min(seconds, (expires_at - now).total_seconds()))
        return ResolvedCaller(principal, seconds, expires_at)


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token and its secret, which is nowhere else."""

    token: StoredToken
    secret: str


class ApiTokens:
    """Lists, creates and revokes a user's tokens."""

    def __init__(
        self, store: TokenStore, *, revocations: Revocations, randbelow: RandomBelow, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._revocations = revocations
        self._randbelow = randbelow
        self._now = now
        self._revoking: set[asyncio.Task[bool]] = set()

    async def list(self, user_id: str) -> Sequence[StoredToken]:
        """Return the user's tokens, newest first; raises Unavailable."""
        return await self._store.of_user(user_id)

    async def create(
        self, user_id: str, *, name: str = "", scopes: Sequence[str] = (), expires_at: datetime | None = None
    ) -> CreatedToken:
        """Create a token, with every scope when none is named; raises InvalidRequest or Unavailable."""
        now = self._now()
        _check_name(name)
        granted = _granted(scopes)
        if expires_at is not None:
            expires_at = _in_utc(expires_at)
            if expires_at <= now:
                raise InvalidRequest("expires_at must be in the future.", param="expires_at")
        secret = new_token(self._randbelow)
        token = StoredToken(
            id=new_token_id(self._randbelow),
            user_id=user_id,
            name=name,
            scopes=granted,
            token_hash=hash_of(secret),
            prefix=display_prefix(secret),
            created_at=now,
            expires_at=expires_at,
        )
        await self._store.add(token, at_most=TOKENS_OF_ONE_USER)
        return CreatedToken(token, secret)

    async def delete(self, token_id: str, *, user_id: str) -> None:
        """Revoke the user's token everywhere; raises NotFound, also for another user's, or Unavailable."""
        revoking = asyncio.create_task(self._revoke(token_id, user_id))
        self._revoking.add(revoking)
        revoking.add_done_callback(self._revoking.discard)
        # Shielded: a client that leaves between the commit and the broadcast must not leave the token working.
        if not await asyncio.shield(revoking):
            raise NotFound("There is no such API token.", param="token_id")

    async def _revoke(self, token_id: str, user_id: str) -> bool:
        if not is_token_id(token_id) or not await self._store.remove(token_id, user_id=user_id):
            return False
        self._revocations.publish([token_id])
        return True


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest("expires_at must be before the year 10000 in UTC.", param="expires_at") from None


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("name must be Unicode text without lone surrogates.", param="name") from None
    if len(name) > NAME_LENGTH:
        raise InvalidRequest(f"name must have at most {NAME_LENGTH} characters.", param="name")
    if any(character < " " or character == "\x7f" for character in name):
        raise InvalidRequest("name must not have control characters.", param="name")


def _granted(scopes: Sequence[str]) -> tuple[str, ...]:
    unknown = [scope for scope in scopes if scope not in _ALL]
    if unknown:
        raise InvalidRequest(
            f"There is no scope '{unknown[0][:50]}'; the scopes are {', '.join(SCOPES)}.", param="scopes"
        )
    return tuple(scope for scope in SCOPES if not scopes or scope in scopes)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"The credential is refused: {why}.", code="invalid_api_key")
