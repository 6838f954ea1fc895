"""The demo user's API token: made once, kept between starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from deploy.local.state import write_private

_NAME = "demo"
_POLL_SECONDS = 0.1
_NOT_YET = frozenset({httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT})


async def demo_token(client: httpx.AsyncClient, *, jwt: str, kept: Path) -> str | None:
    """Return the token in the file ``kept`` while it is still one of the user's, and a new one otherwise.

    ``client`` knows the gateway's URL. Returns None when the gateway does not accept the JWT, as with a JWKS URL of the
    user's own. Raises httpx.HTTPError when the gateway does not answer well.
    """
    authorization = {"authorization": f"Bearer {jwt}"}
    listed = await client.get("/v1/api-tokens", headers=authorization)
    if listed.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return None
    listed.raise_for_status()
    token = kept_token(kept)
    if token and any(_is(token, record) for record in listed.json().get("data", [])):
        return token
    created = await client.post("/v1/api-tokens", headers=authorization, json={"name": _NAME})
    created.raise_for_status()
    token = str(created.json()["token"])
    write_private(kept, token + "\n")
    return token


def kept_token(kept: Path) -> str:
    """Return the token in the file, or an empty string when there is none."""
    return kept.read_text().strip() if kept.exists() else ""


def _is(token: str, record: dict[str, object]) -> bool:
    prefix = record.get("prefix")
    # A token that ends some day would fail in the middle of a session.
    return isinstance(prefix, str) and bool(prefix) and token.startswith(prefix) and not record.get("expires_at")


async def wait_for_gateway(client: httpx.AsyncClient) -> None:
    """Return when the gateway's answer comes from a service: Envoy connects to one on the first call."""
    while True:
        try:
            if (await client.get("/v1/api-tokens")).status_code not in _NOT_YET:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(_POLL_SECONDS)
