"""Finds out who is calling and whether the route lets them in: deny by default."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from common.errors import PermissionDenied, Unauthenticated
from common.identity.authenticator import Authenticator
from common.identity.principal import Access, Kind, Principal, Requirement, Scope
from common.request import Call
from common.serving.interceptor import Context, Proceed
from common.serving.routes import Route

SERVICE_KEY_HEADER = "x-turnpike-service-key"
CREDENTIAL_HEADERS = ("authorization", "x-api-key", "api-key")


class AuthInterceptor:
    """Sets the call's principal, or refuses the call.

    ``credential_headers`` are tried in order.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        service_key: SecretStr,
        credential_headers: Sequence[str] = CREDENTIAL_HEADERS,
    ) -> None:
        self._authenticator = authenticator
        self._service_key = service_key.get_secret_value().encode()
        self._credential_headers = credential_headers

    async def __call__(self, route: Route, call: Call, context: Context, proceed: Proceed) -> Any:
        """Serve the call if its caller may make it; raises Unauthenticated, PermissionDenied or Unavailable."""
        requirement = route.requirement
        if requirement is Access.INTERNAL:
            self._check_service_key(call.metadata)
        elif requirement is not Access.PUBLIC:
            call.principal = await self._authenticator.authenticate(self._credential(call.metadata))
            check(call.principal, requirement)
        return await proceed(call, context)

    def _check_service_key(self, metadata: Mapping[str, str]) -> None:
        given = metadata.get(SERVICE_KEY_HEADER, "")
        if not hmac.compare_digest(given.encode(), self._service_key):
            raise PermissionDenied("This RPC is for the gateway's own services.", code="invalid_service_key")

    def _credential(self, metadata: Mapping[str, str]) -> str:
        for header in self._credential_headers:
            value = metadata.get(header, "").strip()
            if not value:
                continue
            if header != "authorization":
                return value
            scheme, _, credential = value.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthenticated(
                    "The Authorization header must have the form 'Bearer <token>'.", code="invalid_authorization"
                )
            # SDKs send "Bearer " when their key is empty: that is no credential, not a wrong one.
            if credential.strip():
                return credential.strip()
        return ""


def check(principal: Principal, requirement: Requirement) -> None:
    """Raise PermissionDenied (Unauthenticated for an anonymous caller) unless the principal meets the requirement."""
    if isinstance(requirement, Scope):
        if requirement.name not in principal.scopes:
            raise PermissionDenied(f"This credential lacks the scope '{requirement.name}'.", code="insufficient_scope")
    elif requirement is Access.PLATFORM_USER:
        if principal.kind is Kind.ANONYMOUS:
            raise Unauthenticated("This route needs a platform JWT.", code="platform_jwt_required")
        if principal.kind is not Kind.PLATFORM_JWT:
            raise PermissionDenied(
                "This route needs a platform JWT; API tokens and keys are not accepted here.",
                code="platform_jwt_required",
            )
    else:
        raise ValueError(f"{requirement} cannot be checked against a principal")
