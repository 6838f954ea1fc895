"""Attacks by hand on a real Chroma: each of them works without the gateway, or would with a careless one."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from services.chroma.namespace import namespace_of
from tests.services.chroma.edge import running_edge
from tests.services.chroma.support import DATABASES, SEPARATOR, Answer, Service, credential_of
from tests.services.chroma.tenant import ON_RECORDS, SPELLINGS

UserId = Callable[[str], str]


class Victim:
    """A user with a collection that somebody knows all about: its UUID, names, and the user's id."""

    def __init__(self, service: Service, user_id: str) -> None:
        self.user_id = user_id
        self.prefix = namespace_of(user_id, separator=SEPARATOR).prefix
        self.id = ""
        self._service = service

    async def arrive(self) -> None:
        """Make the collection."""
        await self._service.ask(self.user_id, "POST", DATABASES, {"name": "mine"})
        made = await self._service.ask(self.user_id, "POST", f"{DATABASES}/mine/collections", {"name": "notes"})
        self.id = made.content["id"]
        records = {"ids": ["a", "b"], "embeddings": [[1.0, 2.0]] * 2, "documents": ["secret a", "secret b"]}
        assert (await self._on("add", records)).status == 201

    async def check(self) -> None:
        """See that nothing has changed."""
        found = (await self._on("get", {"include": ["documents", "embeddings"]})).content
        assert (found["ids"], found["documents"]) == (["a", "b"], ["secret a", "secret b"])
        assert found["embeddings"] == [[1.0, 2.0]] * 2
        listed = (await self._service.ask(self.user_id, "GET", f"{DATABASES}/mine/collections")).content
        assert [(collection["name"], collection["metadata"]) for collection in listed] == [("notes", None)]

    async def _on(self, operation: str, content: object) -> Answer:
        path = f"{DATABASES}/mine/collections/{self.id}/{operation}"
        return await self._service.ask(self.user_id, "POST", path, content)


@pytest.fixture
async def victim(service: Service, user: UserId) -> Victim:
    arriving = Victim(service, user("victim"))
    await arriving.arrive()
    return arriving


async def test_chroma_itself_isolates_nothing(chroma_url: str, victim: Victim) -> None:
    """Why all of this is needed: if this fails, Chroma has changed, and the gateway may become simpler."""
    path = f"{DATABASES}/no-such-database/collections/{victim.id.upper()}/get"
    async with httpx.AsyncClient(base_url=chroma_url, trust_env=False) as client:
        answer = await client.post(path, json={})
    assert answer.json()["documents"] == ["secret a", "secret b"]


@pytest.mark.parametrize("operation", sorted(ON_RECORDS))
async def test_a_strangers_uuid_in_every_operation_and_spelling(
    service: Service, victim: Victim, user: UserId, operation: str
) -> None:
    method, tail, content = ON_RECORDS[operation]
    attacker = user("attacker")
    await service.ask(attacker, "POST", DATABASES, {"name": "mine"})
    for spelling in SPELLINGS.values():
        for database in ("mine", "default_database", "no-such-database", f"{victim.prefix}mine"):
            path = f"{DATABASES}/{database}/collections/{spelling(victim.id)}{tail}"
            for over in ("http", "grpc"):
                answer = await service.ask(attacker, method, path, content, over=over)
                nobodys = uuid.uuid4()
                path_of_nobody = f"{DATABASES}/{database}/collections/{spelling(str(nobodys))}{tail}"
                unknown = await service.ask(attacker, method, path_of_nobody, content, over=over)
                # A stranger's collection cannot be told from none.
                assert answer.status == unknown.status == 404
                assert answer.body.replace(victim.id.encode(), b"") == unknown.body.replace(str(nobodys).encode(), b"")
    await victim.check()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_strangers_names(service: Service, victim: Victim, user: UserId, method: str) -> None:
    attacker = user("attacker")
    names = ("mine", f"{victim.prefix}mine", "no-such-database")
    for name in names:
        answer = await service.ask(attacker, method, f"{DATABASES}/{name}")
        assert answer.status == 404
        assert answer.content["message"].startswith(f"Database [{name}] not found")
        for tail in ("notes", victim.id, f"by-id/{victim.id}"):
            answer = await service.ask(attacker, method, f"{DATABASES}/{name}/collections/{tail}")
            assert answer.status in (404, 405)
            assert b"secret" not in answer.body
    for tail in ("", "_count"):
        answer = await service.ask(attacker, "GET", f"{DATABASES}/{names[1]}/collections{tail}")
        assert answer.content in ([], 0)
    await victim.check()


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/tenants/default_tenant/databases/x%2F..%2F{stored}/collections",
        "/api/v2/tenants/default_tenant/databases/../databases/{stored}/collections",
        "/api/v2/tenants/default_tenant/databases/%2e%2e/{stored}/collections",
        "/api/v2/tenants/default_tenant/databases//{stored}/collections",
        "/api/v2/tenants/default_tenant/databases/mine%00/collections",
        "/api/v2/tenants/default_tenant/databases/mine/collections/",
        "/api/v2/tenants/other/databases/{stored}/collections",
        "/api/v2/tenants/default_tenant/databases/a+{stored}/collections",
        "/api/v2/tenants/default_tenant/databases/{stored}/collections?tenant=other",
        "/api/v2/collections/default_tenant:{stored}:notes",
        "/api/v1/collections",
        "/../chroma/api/v2/tenants/default_tenant/databases/{stored}/collections",
    ],
)
async def test_ways_around_the_path(service: Service, victim: Victim, user: UserId, path: str) -> None:
    answer = await service.ask(user("attacker"), "GET", path.format(stored=f"{victim.prefix}mine"))
    assert answer.status in (400, 403, 404, 410), answer
    assert set(answer.content) == {"error", "message"}


@pytest.mark.parametrize(
    "query", ["database={stored}", "database=mine&Database={stored}", "tenant=default_tenant", "collection={stored}"]
)
async def test_a_query_names_no_other_database(service: Service, victim: Victim, user: UserId, query: str) -> None:
    query = query.format(stored=f"{victim.prefix}mine")
    answer = await service.ask(user("attacker"), "GET", f"{DATABASES}/default_database/collections?{query}")
    assert (answer.status, answer.content) == (200, [])


async def test_a_body_names_no_other_database(service: Service, victim: Victim, user: UserId) -> None:
    attacker = user("attacker")
    stored = f"{victim.prefix}mine"
    body = f'{{"name":"x","n\\u0061me":"stolen","database":"{stored}","tenant":"other","id":"{victim.id}"}}'
    answer = await service.ask(attacker, "POST", f"{DATABASES}/default_database/collections", body.encode())
    assert (answer.status, answer.content["name"], answer.content["database"]) == (200, "stolen", "default_database")
    assert answer.content["id"] != victim.id
    made = await service.ask(attacker, "POST", DATABASES, f'{{"name":"fine","name":"{stored}"}}'.encode())
    assert made.status == 200
    names = [database["name"] for database in (await service.ask(attacker, "GET", DATABASES)).content]
    assert names == ["default_database", stored]
    await victim.check()


async def test_a_collection_does_not_move_with_its_uuid_between_own_databases(service: Service, user: UserId) -> None:
    owner = Victim(service, user("owner"))
    await owner.arrive()
    await service.ask(owner.user_id, "POST", DATABASES, {"name": "second"})
    answer = await service.ask(owner.user_id, "GET", f"{DATABASES}/second/collections/{owner.id}/count")
    assert answer.status == 404


async def test_a_default_database_comes_back_empty(service: Service, user: UserId) -> None:
    owner, path = user("owner"), f"{DATABASES}/default_database"
    assert (await service.ask(owner, "POST", DATABASES, {"name": "default_database"})).status == 409
    assert (await service.ask(owner, "POST", f"{path}/collections", {"name": "notes"})).status == 200
    assert (await service.ask(owner, "DELETE", path)).status == 200
    assert (await service.ask(owner, "GET", path)).content["name"] == "default_database"
    assert (await service.ask(owner, "GET", f"{path}/collections")).content == []


async def test_a_default_database_that_another_process_deleted_comes_back(
    chroma_url: str, service: Service, user: UserId
) -> None:
    owner, path = user("owner"), f"{DATABASES}/default_database"
    assert (await service.ask(owner, "GET", path)).status == 200
    namespace = namespace_of(owner, separator=SEPARATOR)
    stored = f"/api/v2/tenants/{namespace.tenant}/databases/{namespace.prefix}default_database"
    async with httpx.AsyncClient(base_url=chroma_url, trust_env=False) as client:
        assert (await client.delete(stored)).status_code == 200
    assert [(await service.ask(owner, "GET", path)).status for _ in range(2)] == [404, 200]


async def test_data_of_an_earlier_version_stay_in_use(chroma_url: str, service: Service, user: UserId) -> None:
    """Earlier versions kept everybody's databases in one tenant."""
    owner = user("owner")
    namespace = namespace_of(owner, separator=SEPARATOR)
    async with httpx.AsyncClient(base_url=chroma_url, trust_env=False) as client:
        await client.post(DATABASES, json={"name": f"{namespace.prefix}work"})
        stored = f"{DATABASES}/{namespace.prefix}work/collections"
        made = (await client.post(stored, json={"name": "notes"})).json()
        records = {"ids": ["a"], "embeddings": [[1.0, 2.0]], "documents": ["from before"]}
        await client.post(f"{stored}/{made['id']}/add", json=records)
    path = f"{DATABASES}/work/collections"
    listed = (await service.ask(owner, "GET", DATABASES)).content
    assert [(database["name"], database["tenant"]) for database in listed] == [
        ("default_database", "default_tenant"),
        ("work", "default_tenant"),
    ]
    assert (await service.ask(owner, "POST", f"{path}/{made['id']}/get", {})).content["documents"] == ["from before"]
    collection = (await service.ask(owner, "GET", f"{path}/notes")).content
    assert (collection["database"], collection["tenant"]) == ("work", "default_tenant")
    assert (await service.ask(owner, "POST", DATABASES, {"name": "new"})).status == 200
    listed = (await service.ask(owner, "GET", f"{DATABASES}?limit=2&offset=1")).content
    assert [database["name"] for database in listed] == ["new", "work"]


async def test_over_the_edge(service: Service, victim: Victim, user: UserId, tmp_path: Path) -> None:
    """What only a real Envoy can get wrong: methods, query strings, errors of its own, large answers."""
    attacker = {"authorization": f"Bearer {credential_of(user('attacker'))}"}
    with ExitStack() as stack:
        url = await asyncio.to_thread(stack.enter_context, running_edge(tmp_path, service_port=service.port))
        async with httpx.AsyncClient(headers=attacker, trust_env=False, timeout=30) as client:
            spoofed = {"x-envoy-original-path": f"/v1/chroma{DATABASES}", "x-envoy-original-method": "GET"}
            answer = await client.post(f"{url}/api/v2/reset", headers=spoofed)
            assert (answer.status_code, answer.json()["error"]) == (403, "AuthorizationError")
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "TRACE"):
                answer = await client.request(method, f"{url}/api/v2/heartbeat")
                assert answer.status_code == 405
                assert answer.json()["error"] == "ChromaError"
                assert "GET" in answer.headers["allow"]
            for path, status in (("", 200), ("/api/v2", 200), ("/", 404), ("/api/v2/", 404), ("//api/v2", 404)):
                assert (await client.head(f"{url}{path}")).status_code == status
                assert (await client.get(f"{url}{path}")).status_code == status
            wrong = {"authorization": "Bearer no"}
            assert (await client.head(f"{url}/api/v2", headers=wrong)).status_code == 401
            # The transcoder reads a query into the fields of its message, and these are those of HttpBody.
            answer = await client.get(f"{url}/api/v2/heartbeat?data=@@&content_type=x&extensions.y=z")
            assert answer.status_code == 200
            answer = await client.post(f"{url}{DATABASES}?data=eA==&content_type=x", json={"name": "fine"})
            assert answer.status_code == 200
            answer = await client.get(f"{url}{DATABASES}/mine%2F..%2Fx")
            assert (answer.status_code, answer.json()["error"]) == (400, "InvalidArgumentError")
            answer = await client.post(f"{url}{DATABASES}/fine/collections", content=b"x" * (33 * 1024 * 1024))
            assert (answer.status_code, answer.json()["error"]) == (413, "ChromaError")
            await _check_large_answers(client, url)
            await _check_largest_batch(client, url)
    await victim.check()


async def test_an_edge_without_the_service_answers_as_chroma_does(tmp_path: Path, free_port: int) -> None:
    with ExitStack() as stack:
        url = await asyncio.to_thread(stack.enter_context, running_edge(tmp_path, service_port=free_port))
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.get(f"{url}/api/v2/heartbeat")
    assert (answer.status_code, answer.json()["error"]) == (503, "InternalError")


async def _check_large_answers(client: httpx.AsyncClient, url: str) -> None:
    made = await client.post(f"{url}{DATABASES}/default_database/collections", json={"name": "large"})
    path = f"{url}{DATABASES}/default_database/collections/{made.json()['id']}"
    documents = [f"{number} " + "x" * 1000 for number in range(3000)]
    records = {"ids": [str(number) for number in range(3000)], "documents": documents, "embeddings": [[0.5]] * 3000}
    assert (await client.post(f"{path}/add", json=records)).status_code == 201
    answer = await client.post(f"{path}/get", json={})
    assert sorted(answer.json()["documents"]) == sorted(documents)


async def _check_largest_batch(client: httpx.AsyncClient, url: str) -> None:
    """As many embeddings as clients are told to send at once, in JSON and of the longest numbers, fit a body."""
    limits = (await client.get(f"{url}/api/v2/pre-flight-checks")).json()
    made = await client.post(f"{url}{DATABASES}/default_database/collections", json={"name": "batch"})
    path = f"{url}{DATABASES}/default_database/collections/{made.json()['id']}"
    ids = [str(number) for number in range(limits["max_batch_size"])]
    row = "[" + ", ".join(["-0.00012345678901234567"] * 1536) + "]"
    body = f'{{"ids": {json.dumps(ids)}, "embeddings": [{", ".join([row] * len(ids))}]}}'
    assert (await client.post(f"{path}/add", content=body)).status_code == 201
    assert (await client.get(f"{path}/count")).json() == len(ids)
