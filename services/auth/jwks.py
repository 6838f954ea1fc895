"""The platform's public keys, fetched from its JWKS URL and kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from common.errors import Unauthenticated, Unavailable
from services.auth.jwt import ASYMMETRIC

_log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS: Final = 3.0
_BYTES_AT_MOST: Final = 1024 * 1024
_KEYS_AT_MOST: Final = 200
_RSA_BITS: Final = 2048  # RFC 7518, section 3.3.
_UNKNOWN_KID_SECONDS: Final = 30.0
_AFTER_FAILURE_SECONDS: Final = 2.0
_STALE_SECONDS: Final = 600.0

_Keys = Mapping[tuple[str | None, str], jwt.PyJWK]


class JwksKeys:
    """Finds keys by their id; knows them for good while the URL does not answer.

    The set is fetched again for an unknown id (every 30 s at most) and when it is 10 min old, so that a key which
    the platform withdraws stops working. ``clock`` counts seconds.
    """

    def __init__(
        self, url: str, *, client: httpx.AsyncClient | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._client = client or httpx.AsyncClient(timeout=_TIMEOUT_SECONDS)
        self._clock = clock
        self._keys: _Keys = MappingProxyType({})
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Stop fetching and close the client."""
        if self._fetching is not None:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching
        await self._client.aclose()

    async def find(self, kid: str | None, *, algorithm: str) -> jwt.PyJWK:
        """Return the key; raises Unauthenticated when there is none, Unavailable when the URL does not answer."""
        key = self._known(kid, algorithm)
        if key is None:
            if self._may_fetch():
                # Shielded: others wait for the same answer when this caller leaves.
                await asyncio.shield(self._fetch())
            key = self._known(kid, algorithm)
        elif self._fetched_at is not None and self._clock() - self._fetched_at > _STALE_SECONDS and self._may_fetch():
            self._fetch()
        if key is not None:
            return key
        if self._failed:
            raise Unavailable("The JWT's key cannot be fetched now; try again.", code="jwks_unavailable")
        raise Unauthenticated("The JWT is not valid: its key is not known.", code="invalid_jwt")

    def _known(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        if kid is not None:
            return self._keys.get((kid, algorithm))
        fitting = [key for (_, name), key in self._keys.items() if name == algorithm]
        # Without an id only an only key can be meant.
        return fitting[0] if len(fitting) == 1 else None

    def _may_fetch(self) -> bool:
        if self._fetching is not None or self._tried_at is None:
            return True
        wait = _AFTER_FAILURE_SECONDS if self._failed else _UNKNOWN_KID_SECONDS
        return self._clock() - self._tried_at >= wait

    def _fetch(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch_keys())
        return self._fetching

    async def _fetch_keys(self) -> None:
        try:
            self._keys = _parsed(await self._download())
            self._fetched_at = self._clock()
            self._failed = False
        except (httpx.HTTPError, TimeoutError, ValueError, RecursionError) as error:
            self._failed = True
            _log.warning("the JWKS URL did not give keys", url=self._url, error=f"{type(error).__name__}: {error}")
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        async with asyncio.timeout(_TIMEOUT_SECONDS * 2), self._client.stream("GET", self._url) as response:
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _BYTES_AT_MOST:
                    raise ValueError("more than 1 MiB")
            return bytes(body)


def _parsed(body: bytes) -> _Keys:
    answer = json.loads(body)
    entries = answer.get("keys") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no list of keys")  # noqa: TRY004 - the answer's value is wrong, not an argument's type
    keys: dict[tuple[str | None, str], jwt.PyJWK] = {}
    for entry in entries[:_KEYS_AT_MOST]:
        key = _public_key(entry)
        if key is not None:
            keys[(entry.get("kid"), key.algorithm_name)] = key
    if not keys:
        raise ValueError("no key of a known kind")
    return MappingProxyType(keys)


def _public_key(entry: Any) -> jwt.PyJWK | None:
    """Return the entry's key, or None where it is of no use here: a set may hold keys for other purposes."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or not isinstance(entry.get("kid"), str | None):
        return None
    try:
        key = jwt.PyJWK(entry)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    # A private key has no business in a published set, and a secret one (kty oct) is for HS256, never for a JWKS URL.
    public = isinstance(key.key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey)
    weak = isinstance(key.key, RSAPublicKey) and key.key.key_size < _RSA_BITS
    return key if public and not weak and key.algorithm_name in ASYMMETRIC else None
