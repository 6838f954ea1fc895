"""Platform JWTs: who signed one, whether it is good now, and whom it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import jwt
from pydantic import SecretStr

from common.errors import Unauthenticated

SYMMETRIC: Final = "HS256"
ASYMMETRIC: Final = ("RS256", "ES256", "EdDSA")

_SUBJECT_LENGTH: Final = 256
_LAST_SECOND: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid JWT says: who holds it, and until when."""

    subject: str
    expires_at: datetime


class KeySource(Protocol):
    """Knows the public keys of the platform."""

    async def find(self, kid: str | None, *, algorithm: str) -> jwt.PyJWK:
        """Return the key; raises Unauthenticated when there is none, Unavailable when nobody can say."""


class JwtVerifier:
    """Verifies platform JWTs.

    Each algorithm has its own source of keys: HS256 the ``secret``, the asymmetric ones ``keys``. So a public key can
    never pass as a secret, and an algorithm whose source is None is refused.
    """

    def __init__(
        self,
        *,
        secret: SecretStr | None = None,
        keys: KeySource | None = None,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_seconds: float = 30.0,
        now: Callable[[], datetime],
    ) -> None:
        self._secret = secret
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway_seconds = leeway_seconds
        self._now = now

    async def verify(self, token: str) -> Claims:
        """Return what the JWT says; raises Unauthenticated, or Unavailable when its key cannot be fetched."""
        if self._secret is None and self._keys is None:
            raise Unauthenticated(
                "Platform JWTs are not accepted: neither TURNPIKE_JWT_SECRET nor TURNPIKE_JWT_JWKS_URL is set.",
                code="jwt_not_configured",
            )
        header = _header(token)
        algorithm = header.get("alg")
        if algorithm == SYMMETRIC and self._secret is not None:
            return self._checked(token, self._secret.get_secret_value().encode(), algorithm=SYMMETRIC)
        if algorithm in ASYMMETRIC and self._keys is not None:
            key = await self._keys.find(header.get("kid"), algorithm=algorithm)
            return self._checked(token, key, algorithm=algorithm)
        raise _invalid("its algorithm is not accepted")

    def _checked(self, token: str, key: bytes | jwt.PyJWK, *, algorithm: str) -> Claims:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": self._audience is not None,
                    # PyJWT reads the clock itself and cannot be given another, so _expiry checks the times.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _invalid(str(error) if isinstance(error, jwt.PyJWTError) else "it cannot be read") from None
        return Claims(_subject(claims), self._expiry(claims))

    def _expiry(self, claims: Mapping[str, Any]) -> datetime:
        now = self._now().timestamp()
        expires = _seconds(claims, "exp")
        if expires <= now - self._leeway_seconds:
            raise Unauthenticated("The JWT has expired.", code="expired_jwt")
        for name in ("nbf", "iat"):
            if name in claims and _seconds(claims, name) > now + self._leeway_seconds:
                raise _invalid(f"it is not valid yet ({name})")
        return datetime.fromtimestamp(expires, UTC)


def looks_like_jwt(credential: str) -> bool:
    """Say whether the credential has three parts separated by dots."""
    return credential.count(".") == 2


def _header(token: str) -> Mapping[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _invalid("its header cannot be read") from None


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    # A time in milliseconds, a usual mistake, lies beyond the year 9999.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LAST_SECOND:
        raise _invalid(f"its {name} is not a time in seconds since 1970")
    return math.floor(value)


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= _SUBJECT_LENGTH or not subject.isprintable():
        raise _invalid(f"its sub is not a text of 1 to {_SUBJECT_LENGTH} printable characters")
    return subject


def _invalid(why: str) -> Unauthenticated:
    return Unauthenticated(f"The JWT is not valid: {why}.", code="invalid_jwt")
