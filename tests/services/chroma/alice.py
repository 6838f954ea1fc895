"""A user of many tests, what is stored of theirs, and a Chroma that says yes to them."""

from __future__ import annotations

import asyncio
import json
from typing import NoReturn

from aiohttp import web

from services.chroma.namespace import namespace_of
from tests.services.chroma.support import SEPARATOR, Service, credential_of
from tests.waiting import until

ALICE = namespace_of("alice", separator=SEPARATOR)
ID = "926ecac4-b0f7-4156-a556-4bb81396a01d"
OWN = f"/api/v2/tenants/{ALICE.tenant}"
COLLECTION = json.dumps({"id": ID, "name": "x", "database": ALICE.stored_name("mine"), "tenant": ALICE.tenant}).encode()
BEARER = {"authorization": f"Bearer {credential_of('alice')}"}


async def say_yes(request: web.BaseRequest) -> web.StreamResponse:
    """Answer that the tenant, the database and the collection are there."""
    body = COLLECTION if "/by-id/" in request.raw_path else b"{}"
    return web.Response(body=body, content_type="application/json", headers={"server": "chroma", "x-internal": "yes"})


async def hang(request: web.BaseRequest) -> NoReturn:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def until_settled(service: Service) -> None:
    """Return when the service has written an event."""
    await until(lambda: bool(service.outbox.events))
