"""Forwards requests to Chroma, each user within databases of their own, and accounts for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import msgspec

from common.errors import PayloadTooLarge, PermissionDenied, Unauthenticated
from common.identity.principal import Kind, Principal
from common.metering.account import Account, Meter
from common.metering.record import Outcome
from common.request import Call
from common.settings import MAX_BODY_BYTES
from services.chroma import rewriting
from services.chroma.databases import Databases
from services.chroma.namespace import DEFAULT_DATABASE, TENANT, Namespace, namespace_of
from services.chroma.ownership import Ownership, canonical
from services.chroma.refusals import Refused
from services.chroma.request_line import Query, read_target
from services.chroma.routes import Does, Route, find, segments_of
from services.chroma.upstream import DATABASES, Upstream, UpstreamAnswer

PATH: Final = "/v1/chroma"
_PROVIDER: Final = "chroma"


@dataclass(frozen=True, slots=True)
class ChromaRequest:
    """A request: ``target`` is what follows /v1/chroma in its path, with the query, percent-encoded."""

    method: str
    target: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class ChromaAnswer:
    """A whole answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    error_code: str = ""
    """Why the answer is not a good one, for the usage event."""
    outcome: Outcome = Outcome.COMPLETED


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that was understood: whose it is, its route, and what fills the route's slots."""

    namespace: Namespace
    route: Route
    slots: Mapping[str, str]
    query: Query
    body: bytes

    @property
    def database(self) -> str:
        """The user's name for the database in the path, "" where there is none."""
        return self.slots.get("database", "")


class Chroma:
    """Serves a Chroma that is everybody's as if it were the caller's alone."""

    def __init__(self, upstream: Upstream, *, meter: Meter, separator: str) -> None:
        self._upstream = upstream
        self._databases = Databases(upstream)
        self._ownership = Ownership(upstream)
        self._meter = meter
        self._separator = separator

    async def answer(self, request: ChromaRequest, *, call: Call) -> ChromaAnswer:
        """Answer a request, refusals included; it is accounted for when this returns.

        Raises Unauthenticated or PermissionDenied for a caller without a user, PayloadTooLarge, and UpstreamFailed,
        UpstreamTimeout or Unavailable when Chroma, or the record of the request, is not to be had.
        """
        with self._meter.open(call, type="chroma") as account:
            account.record.provider = _PROVIDER
            account.received(len(request.body))
            if call.path.startswith(PATH):
                # Names and UUIDs in paths would make each a path of its own in the statistics.
                account.record.path = f"{PATH}/*"
            namespace = namespace_of(_user_id(call.principal), separator=self._separator)
            if len(request.body) > MAX_BODY_BYTES:
                raise PayloadTooLarge("The request body is larger than 32 MiB.")
            try:
                answer = await self._answer(request, namespace, call=call, account=account)
            except Refused as refused:
                answer = ChromaAnswer(
                    refused.status,
                    refused.body,
                    headers=refused.headers,
                    error_code=refused.code,
                    outcome=Outcome.FAILED,
                )
            call.status = answer.status
            account.first_byte()
            account.sent(len(answer.body))
            account.settle(answer.outcome, status=answer.status, error_code=answer.error_code)
            return answer

    async def _answer(
        self, request: ChromaRequest, namespace: Namespace, *, call: Call, account: Account
    ) -> ChromaAnswer:
        line = read_target(request.target)
        route, slots = find(request.method, line.segments)
        if call.path.startswith(PATH):
            account.record.path = PATH + route.template
        query = rewriting.forwarded_query(line.query, namespace=namespace)
        asked = _Asked(namespace, route, slots, query, request.body)
        if "tenant" in slots:
            rewriting.check_tenant(slots["tenant"])
        if route.does is Does.TENANT:
            return _json({"name": TENANT, "resource_name": None})
        if route.does is Does.IDENTITY:
            return await self._identity(asked, account)
        if route.does is Does.LIST_DATABASES:
            return await self._list(asked, account)
        if route.does is Does.CREATE_DATABASE:
            return await self._create(asked, account)
        return await self._forward(asked, account)

    async def _identity(self, asked: _Asked, account: Account) -> ChromaAnswer:
        account.attempt(_PROVIDER)
        databases = await self._databases.owned_by(asked.namespace)
        return _json(
            {
                "user_id": asked.namespace.user_id,
                "tenant": TENANT,
                "databases": [database.name for database in databases],
            }
        )

    async def _list(self, asked: _Asked, account: Account) -> ChromaAnswer:
        window = rewriting.window(asked.query)
        account.attempt(_PROVIDER)
        return _json((await self._databases.owned_by(asked.namespace))[window])

    async def _create(self, asked: _Asked, account: Account) -> ChromaAnswer:
        name = rewriting.name_in(asked.body)
        stored = asked.namespace.stored(name)
        account.attempt(_PROVIDER)
        if name == DEFAULT_DATABASE:
            # It exists already, as it does on a Chroma of one's own.
            await self._databases.ensure_default(asked.namespace)
        body = msgspec.json.encode({"name": stored})
        answer = await self._upstream.request("POST", DATABASES, body=body)
        return self._shown(answer, asked, database=name)

    async def _forward(self, asked: _Asked, account: Account) -> ChromaAnswer:
        route = asked.route
        body = b""
        if route.keys is not None:
            body = rewriting.forwarded_body(asked.body, keys=route.keys, namespace=asked.namespace)
        filling = _stored_slots(asked)
        account.attempt(_PROVIDER)
        if asked.database == DEFAULT_DATABASE:
            await self._databases.ensure_default(asked.namespace)
        if "collection_id" in filling:
            await self._ownership.check(
                asked.namespace, database=asked.database, collection_id=filling["collection_id"]
            )
        path = _path(route.upstream or route.template, filling)
        answer = await self._upstream.request(route.method, path, query=asked.query, body=body)
        deletes_database = route.method == "DELETE" and "collection" not in asked.slots
        if asked.database == DEFAULT_DATABASE and (answer.status >= 400 or deletes_database):
            # Another process of the gateway, or this request, may have deleted it.
            self._databases.forget_default(asked.namespace)
        return self._shown(answer, asked, database=asked.database)

    def _shown(self, answer: UpstreamAnswer, asked: _Asked, *, database: str) -> ChromaAnswer:
        if answer.status < 400:
            body = rewriting.shown_answer(answer.body, holds=asked.route.holds, namespace=asked.namespace)
            return ChromaAnswer(answer.status, body, answer.content_type, answer.headers)
        body = rewriting.shown_error(answer.body, status=answer.status, namespace=asked.namespace, database=database)
        return ChromaAnswer(answer.status, body, headers=answer.headers, error_code="upstream_refused")


def _user_id(principal: Principal) -> str:
    if principal.user_id:
        return principal.user_id
    if principal.kind in (Kind.ANONYMOUS, Kind.NOBODY):
        raise Unauthenticated("Chroma is kept apart by user: send a credential.", code="user_required")
    raise PermissionDenied("Chroma is kept apart by user, and this credential has none.", code="user_required")


def _stored_slots(asked: _Asked) -> dict[str, str]:
    filling = dict(asked.slots)
    if "database" in filling:
        filling["database"] = asked.namespace.stored(filling["database"])
    if "collection_id" in filling:
        filling["collection_id"] = canonical(filling["collection_id"])
    return filling


def _path(template: str, filling: Mapping[str, str]) -> str:
    parts = [filling[part[1:-1]] if part.startswith("{") else part for part in segments_of(template)]
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _json(content: object) -> ChromaAnswer:
    return ChromaAnswer(200, msgspec.json.encode(content))
