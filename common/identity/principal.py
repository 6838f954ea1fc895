"""Who is calling, and what a route asks of the caller."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """What kind of credential identified a caller."""

    NOBODY = "nobody"
    ANONYMOUS = "anonymous"
    API_TOKEN = "api_token"  # noqa: S105 - a kind, not a secret
    PLATFORM_JWT = "platform_jwt"
    STATIC_KEY = "static_key"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller; ``user_id`` is empty for anonymous ones, ``token_id`` for all but API tokens."""

    kind: Kind
    user_id: str = ""
    token_id: str = ""
    scopes: frozenset[str] = frozenset()


NOBODY: Final = Principal(Kind.NOBODY)

# One for each service that serves users: a token's scopes name the services it may use.
SCOPES: Final = ("chat", "embeddings", "images", "models", "responses", "ocr", "chroma", "workersai", "usage")


@dataclass(frozen=True, slots=True)
class Scope:
    """The route needs a caller that holds the scope ``name``."""

    name: str


class Access(Enum):
    """What a route needs other than a scope."""

    PLATFORM_USER = "platform_user"
    """A platform JWT, no other credential."""
    INTERNAL = "internal"
    """The service key: another service of this gateway."""
    PUBLIC = "public"
    """Nothing: no credential is looked at."""


Requirement = Scope | Access
