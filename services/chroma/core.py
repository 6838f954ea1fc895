"""Forwards requests to Chroma, each user within databases of their own, and accounts for them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import msgspec

from common.errors import PayloadTooLarge, PermissionDenied, Unauthenticated
from common.identity.principal import Kind, Principal
from common.metering.account import Account, Meter
from common.metering.record import Attempt, Outcome
from common.reply import Head, Reply, all_but_last
from common.request import Call
from common.settings import MAX_BODY_BYTES
from services.chroma import rewriting
from services.chroma.database_list import DatabaseList
from services.chroma.default_database import DefaultDatabases
from services.chroma.namespace import DEFAULT_DATABASE, TENANT, Namespace, namespace_of
from services.chroma.ownership import Ownership, canonical
from services.chroma.refusals import Refusal
from services.chroma.request_line import Query, read_target
from services.chroma.routes import Action, AnswerKind, Route, find, segments_of
from services.chroma.store import Rest, Store, StoreAnswer, databases_path
from services.chroma.tenancy import Tenancy

PATH: Final = "/v1/chroma"
_PROVIDER: Final = "chroma"


@dataclass(frozen=True, slots=True)
class ChromaRequest:
    """A request: ``target`` is what follows /v1/chroma in its path, with the query, percent-encoded."""

    method: str
    target: str
    body: bytes | memoryview = b""


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as the caller gets it: ``body`` and then ``rest``, if there is any.

    ``error_code`` says in the usage event why it is not a good one.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    error_code: str = ""
    outcome: Outcome = Outcome.COMPLETED
    rest: Rest | None = None


@dataclass(frozen=True, slots=True)
class _RoutedRequest:
    """A request whose route is known: whose it is, and what fills the route's slots."""

    namespace: Namespace
    route: Route
    slots: Mapping[str, str]
    query: Query
    body: bytes | memoryview

    @property
    def database(self) -> str:
        """The user's name for the database in the path, "" where there is none."""
        return self.slots.get("database", "")


class Chroma:
    """Serves a Chroma that is everybody's as if it were the caller's alone."""

    def __init__(self, store: Store, *, meter: Meter, separator: str, tenant_per_user: bool = True) -> None:
        self._store = store
        self._database_list = DatabaseList(store)
        self._tenancy = Tenancy(store, database_list=self._database_list, tenant_per_user=tenant_per_user)
        self._default_databases = DefaultDatabases(store, tenancy=self._tenancy)
        self._ownership = Ownership(store)
        self._meter = meter
        self._separator = separator

    async def answer(self, request: ChromaRequest, *, call: Call, reply: Reply) -> bytes:
        """Answer a request, refusals included: all pieces go to ``reply`` but the last, which is returned.

        The request's account is settled before. Raises Unauthenticated or PermissionDenied for a caller without a user,
        PayloadTooLarge, and UpstreamFailed, UpstreamTimeout or Unavailable when Chroma, or the record of the request,
        is not to be had.
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
            except Refusal as refusal:
                answer = _Answer(
                    refusal.status,
                    refusal.body,
                    headers=refusal.headers,
                    error_code=refusal.code,
                    outcome=Outcome.FAILED,
                )
            call.status = answer.status
            account.first_byte()
            reply.begin(Head(answer.status, answer.content_type, answer.headers))
            last = await _send(answer, reply, account, has_body=request.method != "HEAD")
            account.settle(answer.outcome, status=answer.status, error_code=answer.error_code)
            return last

    async def _answer(self, request: ChromaRequest, namespace: Namespace, *, call: Call, account: Account) -> _Answer:
        line = read_target(request.target)
        route, slots = find(request.method, line.segments)
        if call.path.startswith(PATH):
            account.record.path = PATH + route.template
        query = rewriting.forwarded_query(line.query, namespace=namespace, slots=slots)
        routed = _RoutedRequest(namespace, route, slots, query, request.body)
        if "tenant" in slots:
            rewriting.check_tenant(slots["tenant"])
        if route.action is Action.TENANT:
            return _json({"name": TENANT, "resource_name": None})
        if route.action is Action.IDENTITY:
            return await self._identity(routed, account)
        if route.action is Action.LIST_DATABASES:
            return await self._list(routed, account)
        if route.action is Action.CREATE_DATABASE:
            return await self._create(routed, account)
        return await self._forward(routed, account)

    async def _identity(self, routed: _RoutedRequest, account: Account) -> _Answer:
        namespace = routed.namespace
        with _attempt(account):
            tenant = await self._default_databases.ensure(namespace)
            databases = await self._database_list.read(namespace, tenant=tenant)
        # A user id may hold half of a character that takes two in UTF-16, which JSON cannot.
        user_id = namespace.user_id.encode("utf-8", "replace").decode()
        names = [database.name for database in databases]
        return _json({"user_id": user_id, "tenant": TENANT, "databases": names})

    async def _list(self, routed: _RoutedRequest, account: Account) -> _Answer:
        page = rewriting.page_of(routed.query)
        with _attempt(account):
            tenant = await self._default_databases.ensure(routed.namespace)
            return _json(await self._database_list.read(routed.namespace, tenant=tenant, page=page))

    async def _create(self, routed: _RoutedRequest, account: Account) -> _Answer:
        name = rewriting.name_in(routed.body)
        stored = routed.namespace.stored_name(name)
        body = msgspec.json.encode({"name": stored})
        with _attempt(account) as attempt:
            if name == DEFAULT_DATABASE:
                # It exists already, as it does on a Chroma of one's own.
                await self._default_databases.ensure(routed.namespace)
            tenant = await self._tenancy.tenant_for_new_database(routed.namespace)
            answer = await self._store.request("POST", databases_path(tenant), body=body)
            attempt.status = answer.status
            return _rewritten(answer, routed, tenant=tenant, database=name)

    async def _forward(self, routed: _RoutedRequest, account: Account) -> _Answer:
        namespace, route = routed.namespace, routed.route
        body = b""
        if route.keys is not None:
            body = rewriting.forwarded_body(routed.body, keys=route.keys, namespace=namespace)
        slots = _stored_slots(routed)
        with _attempt(account) as attempt:
            tenant = await self._tenant(routed)
            if "collection_id" in slots:
                await self._ownership.check(
                    namespace, tenant=tenant, database=routed.database, collection_id=slots["collection_id"]
                )
            path = _path(route.upstream or route.template, {**slots, "tenant": tenant})
            answer = await self._store.request(
                route.method, path, query=routed.query, body=body, in_parts=route.answer is AnswerKind.OTHER
            )
            attempt.status = answer.status
        deletes_database = route.method == "DELETE" and "collection" not in routed.slots
        if routed.database == DEFAULT_DATABASE and (answer.status >= 400 or deletes_database):
            # Another process of the gateway, or this request, may have deleted it.
            self._default_databases.discard(namespace)
        return _rewritten(answer, routed, tenant=tenant, database=routed.database)

    async def _tenant(self, routed: _RoutedRequest) -> str:
        """Return the tenant on the Chroma server, "" for a request that is about none."""
        if routed.database == DEFAULT_DATABASE:
            return await self._default_databases.ensure(routed.namespace)
        return await self._tenancy.tenant_of(routed.namespace) if "tenant" in routed.slots else ""


async def _send(answer: _Answer, reply: Reply, account: Account, *, has_body: bool) -> bytes:
    """Send an answer's pieces as they come, and return the last."""
    try:
        if not has_body:
            return b""
        last = await all_but_last(answer.body, reply, sent=account.sent)
        while answer.rest is not None and (part := await answer.rest.part()):
            account.sent(len(last))
            await reply.write(last)
            last = await all_but_last(part, reply, sent=account.sent)
        account.sent(len(last))
        return last
    finally:
        if answer.rest is not None:
            answer.rest.close()


@contextmanager
def _attempt(account: Account) -> Iterator[Attempt]:
    """Put the attempt at Chroma on record, with the time of all that Chroma is asked for one request."""
    started = time.perf_counter()
    attempt = account.attempt(_PROVIDER)
    # Whatever is not said otherwise was answered with 200: a list, of several questions.
    attempt.status = 200
    try:
        yield attempt
    except Refusal as refusal:
        attempt.status = refusal.status
        raise
    except BaseException:
        attempt.status = 0
        raise
    finally:
        attempt.milliseconds = round((time.perf_counter() - started) * 1000)


def _rewritten(answer: StoreAnswer, routed: _RoutedRequest, *, tenant: str, database: str) -> _Answer:
    namespace = routed.namespace
    if answer.status < 400:
        body = rewriting.rewritten_answer(answer.body, kind=routed.route.answer, namespace=namespace, tenant=tenant)
        return _Answer(answer.status, body, answer.content_type, answer.headers, rest=answer.rest)
    body = rewriting.rewritten_error(answer.body, status=answer.status, namespace=namespace, database=database)
    return _Answer(answer.status, body, headers=answer.headers, error_code="upstream_refused")


def _user_id(principal: Principal) -> str:
    if principal.user_id:
        return principal.user_id
    if principal.kind in (Kind.ANONYMOUS, Kind.NOBODY):
        raise Unauthenticated("Chroma is kept apart by user: send a credential.", code="user_required")
    raise PermissionDenied("Chroma is kept apart by user, and this credential has none.", code="user_required")


def _stored_slots(routed: _RoutedRequest) -> dict[str, str]:
    slots = dict(routed.slots)
    if "database" in slots:
        slots["database"] = routed.namespace.stored_name(slots["database"])
    if "collection_id" in slots:
        slots["collection_id"] = canonical(slots["collection_id"])
    return slots


def _path(template: str, slots: Mapping[str, str]) -> str:
    parts = [slots[part[1:-1]] if part.startswith("{") else part for part in segments_of(template)]
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _json(content: object) -> _Answer:
    return _Answer(200, msgspec.json.encode(content))
