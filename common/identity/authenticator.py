"""Resolves credentials to principals: the interface, and the implementation that lets everybody in."""

from __future__ import annotations

from typing import Protocol

from common.identity.principal import SCOPES, Kind, Principal


class Authenticator(Protocol):
    """Resolves credentials to principals."""

    async def authenticate(self, credential: str) -> Principal:
        """Return who holds the credential ("" when none was sent); raises Unauthenticated or Unavailable."""


class NullAuthenticator:
    """Lets everybody in as nobody in particular, with every scope."""

    async def authenticate(self, credential: str) -> Principal:
        """Return the anonymous principal."""
        return Principal(Kind.ANONYMOUS, scopes=frozenset(SCOPES))
