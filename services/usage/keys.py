"""Who may read usage when USAGE_API_KEY is set: its holder everything, a user their own."""

from __future__ import annotations

import hmac
from typing import Final

from pydantic import SecretStr

from common.errors import PermissionDenied, Unauthenticated
from common.identity.authenticator import Authenticator
from common.identity.principal import Kind, Principal

KEY_HOLDER: Final = Principal(Kind.STATIC_KEY, scopes=frozenset({"usage"}))
"""Whoever shows the usage key: the one principal without a user id that the authenticator lets in."""


class UsageKeyAuthenticator:
    """Knows the usage key itself and asks ``inner`` about every other credential."""

    def __init__(self, inner: Authenticator, *, key: SecretStr) -> None:
        self._inner = inner
        self._key = key.get_secret_value().encode()
        if not self._key:
            raise ValueError("an empty usage key would let everybody in")

    async def authenticate(self, credential: str) -> Principal:
        """Return who holds the credential; raises Unauthenticated, PermissionDenied or Unavailable."""
        if not credential:
            raise Unauthenticated(
                "Usage needs a credential: the usage key, or a user's own.", code="usage_key_required"
            )
        if hmac.compare_digest(credential.encode("utf-8", "surrogateescape"), self._key):
            return KEY_HOLDER
        principal = await self._inner.authenticate(credential)
        if principal.kind is Kind.ANONYMOUS:
            raise Unauthenticated("The credential is not known.")
        if not principal.user_id:
            # Without a user it would count as the usage key's holder.
            raise PermissionDenied("This credential belongs to no user, so it has no usage.", code="user_required")
        return principal
