"""An authenticator that knows what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from common.errors import Unauthenticated
from common.identity.principal import Principal


class FakeAuthenticator:
    """Knows the principals that it was given, for tests."""

    def __init__(self, principals: Mapping[str, Principal] = MappingProxyType({})) -> None:
        self.principals = dict(principals)
        self.asked: list[str] = []

    async def authenticate(self, credential: str) -> Principal:
        """Return the principal under ``credential``; raises Unauthenticated."""
        self.asked.append(credential)
        try:
            return self.principals[credential]
        except KeyError:
            raise Unauthenticated("The credential is not known.") from None
