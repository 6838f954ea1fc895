"""The demo user's API token: made once, kept between starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from deploy.local.state import write_private

_NAME = "demo"
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1


async def demo_token(client: httpx.AsyncClient, *, jwt: str, kept: Path) -> str | None:
    """Return the token in the file ``kept`` while it is still one of the user's, and a new one otherwise.

    ``client`` knows the gateway's URL. Returns None when the gateway does not accept the JWT, as with a JWKS URL of the
    user's own. Raises httpx.HTTPError when the gateway does not answer well within 10 seconds.
    """
    authorization = {"authorization": f"Bearer {jwt}"}
    listed = await _settled(client, httpx.Request("GET", "/v1/api-tokens", headers=authorization))
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


async def _settled(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send the request until the answer is not a 5xx: Envoy connects to a backend on the first call."""
    give_up = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while True:
        answer = await client.request(request.method, str(request.url), headers=request.headers)
        if not answer.is_server_error or asyncio.get_running_loop().time() > give_up:
            return answer
        await asyncio.sleep(_POLL_SECONDS)
