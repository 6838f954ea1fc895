"""A user of the gateway and a model of all that they should see: whatever differs from it fails the test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.services.chroma.support import DATABASES, Answer, Service

# Chroma's SQLite gives up at once when another request writes; nothing was changed then.
_BUSY: Final = (b"database is locked", b"did not make the default database")
_TRIES: Final = 50

SPELLINGS: Final[Mapping[str, Callable[[str], str]]] = {
    "plain": str,
    "capitals": str.upper,
    "no hyphens": lambda text: text.replace("-", ""),
    "capitals without hyphens": lambda text: text.replace("-", "").upper(),
    "braces": lambda text: "{" + text + "}",
    "encoded braces": lambda text: "%7B" + text + "%7D",
    "urn": lambda text: "urn:uuid:" + text,
    "urn in capitals": lambda text: "urn:uuid:" + text.upper(),
    "encoded": lambda text: "".join(f"%{ord(character):02x}" for character in text),
}
"""Ways to write a collection's UUID into a path."""

ON_RECORDS: Final[Mapping[str, tuple[str, str, Any]]] = {
    "get": ("POST", "/get", {"include": ["documents", "metadatas", "embeddings"]}),
    "query": ("POST", "/query", {"query_embeddings": [[0.0, 0.0]], "n_results": 100}),
    "count": ("GET", "/count", None),
    "add": ("POST", "/add", {"ids": ["intruder"], "embeddings": [[9.0, 9.0]], "documents": ["intruder"]}),
    "upsert": ("POST", "/upsert", {"ids": ["a", "b"], "embeddings": [[9.0, 9.0]] * 2}),
    "update": ("POST", "/update", {"ids": ["a", "b"], "embeddings": [[9.0, 9.0]] * 2}),
    "delete": ("POST", "/delete", {"ids": ["a", "b", "c"]}),
    "modify": ("PUT", "", {"new_name": "stolen", "new_metadata": {"owner": "intruder"}}),
    "search": ("POST", "/search", {"searches": [{}]}),
    "indexing status": ("GET", "/indexing_status", None),
}
"""Every operation that names a collection by its UUID alone."""


@dataclass
class Collection:
    """What a collection should hold: by id, each record's embedding and document."""

    id: str
    records: dict[str, tuple[list[float], str]] = field(default_factory=dict)


class Tenant:
    """A user: each method asks the service and compares the answer with the model.

    ``forbidden`` says what must not appear in any answer to this user, unless it stands in one of their own ``words``;
    documents carry ``marker``.
    """

    def __init__(self, service: Service, user_id: str, *, marker: str) -> None:
        self.user_id = user_id
        self.marker = marker
        self.forbidden: set[str] = set()
        self.words: list[str] = []
        self.databases: dict[str, dict[str, Collection]] = {"default_database": {}}
        self.over = "http"
        self._service = service

    async def ask(self, method: str, path: str, content: Any = None) -> Answer:
        """Ask as this user, and look for what is not theirs in the answer."""
        for _ in range(_TRIES):
            answer = await self._service.ask(self.user_id, method, path, content, over=self.over)
            if not any(sign in answer.body for sign in _BUSY):
                break
        text = answer.body.decode()
        for word in self.words:
            text = text.replace(word, "")
        for strange in self.forbidden:
            assert strange not in text, (self.user_id, method, path, text)
        return answer

    async def create_database(self, name: str) -> None:
        """Create a database, or be told that it is there."""
        answer = await self.ask("POST", DATABASES, {"name": name})
        if name in self.databases:
            _is_error(answer, 409, "ChromaError", f"Database [{name}] already exists")
            return
        assert answer.status == 200, answer
        self.databases[name] = {}

    async def delete_database(self, name: str) -> None:
        """Delete a database, or be told that it is not there; a default one is there again at once."""
        answer = await self.ask("DELETE", f"{DATABASES}/{name}")
        if name not in self.databases:
            _is_error(answer, 404, "NotFoundError", f"Database [{name}] not found")
            return
        assert answer.status == 200, answer
        del self.databases[name]
        if name == "default_database":
            self.databases[name] = {}

    async def see_database(self, name: str) -> None:
        """Get a database by its name."""
        answer = await self.ask("GET", f"{DATABASES}/{name}")
        if name not in self.databases:
            _is_error(answer, 404, "NotFoundError", f"Database [{name}] not found. Are you sure it exists?")
            return
        assert (answer.status, answer.content["name"]) == (200, name)
        assert answer.content["tenant"] == "default_tenant"

    async def see_databases(self, *, limit: int | None = None, offset: int | None = None) -> None:
        """List databases, all or a part."""
        answer = await self.ask("GET", f"{DATABASES}{_window(limit, offset)}")
        names = sorted(self.databases)[offset or 0 :][:limit]
        assert (answer.status, [database["name"] for database in answer.content]) == (200, names)

    async def see_identity(self) -> None:
        """Ask who this is."""
        answer = await self.ask("GET", "/api/v2/auth/identity")
        assert answer.content == {
            "user_id": self.user_id,
            "tenant": "default_tenant",
            "databases": sorted(self.databases),
        }

    async def create_collection(self, database: str, name: str, *, get_or_create: bool = False) -> None:
        """Create a collection, or get it, or be told why not."""
        content = {"name": name, "get_or_create": get_or_create, "metadata": {"owner": self.marker}}
        answer = await self.ask("POST", f"{DATABASES}/{database}/collections", content)
        collections = self.databases.get(database)
        if collections is None:
            _is_error(answer, 400, "InvalidArgumentError", f"Database [{database}] does not exist")
        elif name in collections and not get_or_create:
            _is_error(answer, 409, "ChromaError", f"Collection [{name}] already exists")
        else:
            assert (answer.status, answer.content["name"], answer.content["database"]) == (200, name, database)
            known = collections.setdefault(name, Collection(answer.content["id"]))
            assert answer.content["id"] == known.id

    async def see_collection(self, database: str, name: str) -> None:
        """Get a collection by its name and by its id."""
        answer = await self.ask("GET", f"{DATABASES}/{database}/collections/{name}")
        collection = self.databases.get(database, {}).get(name)
        if collection is None:
            _is_error(answer, 404, "NotFoundError", f"Collection [{name}] does not exist")
            return
        by_id = await self.ask("GET", f"{DATABASES}/{database}/collections/by-id/{collection.id}")
        for found in (answer, by_id):
            assert (found.status, found.content["id"], found.content["name"]) == (200, collection.id, name)
            assert found.content["database"] == database

    async def see_collections(self, database: str, *, page: int = 1000) -> None:
        """List a database's collections page by page, and count them."""
        expected = {collection.id: name for name, collection in self.databases.get(database, {}).items()}
        path = f"{DATABASES}/{database}/collections"
        found: list[dict[str, Any]] = []
        while True:
            answer = await self.ask("GET", f"{path}{_window(page, len(found))}")
            assert answer.status == 200, answer
            found += answer.content
            if len(answer.content) < page:
                break
        assert {collection["id"]: collection["name"] for collection in found} == expected
        assert all(collection["database"] == database for collection in found)
        assert (await self.ask("GET", f"{path}_count")).content == len(expected) == len(found)

    async def delete_collection(self, database: str, name: str) -> None:
        """Delete a collection by its name."""
        answer = await self.ask("DELETE", f"{DATABASES}/{database}/collections/{name}")
        if self.databases.get(database, {}).pop(name, None) is None:
            _is_error(answer, 404, "NotFoundError", f"Collection [{name}] does not exist")
        else:
            assert answer.status == 200, answer

    async def rename_collection(self, database: str, name: str, *, new_name: str, spelling: str) -> None:
        """Rename a collection, to a name that is free."""
        collections = self.databases[database]
        path = self.path(database, collections[name], spelling)
        answer = await self.ask("PUT", path, {"new_name": new_name})
        if new_name in collections and new_name != name:
            assert answer.status >= 400, answer
            return
        assert answer.status == 200, answer
        collections[new_name] = collections.pop(name)

    async def write(self, database: str, name: str, *, how: str, ids: list[str], spelling: str) -> None:
        """Add, upsert, update or delete records."""
        collection = self.databases[database][name]
        number = uuid.uuid4().int % 1000
        embeddings = [[float(number), float(place)] for place in range(len(ids))]
        documents = [f"{self.marker} {number} {record}" for record in ids]
        content: dict[str, Any] = {"ids": ids}
        if how != "delete":
            content |= {"embeddings": embeddings, "documents": documents, "database": database}
        answer = await self.ask("POST", f"{self.path(database, collection, spelling)}/{how}", content)
        assert answer.status in (200, 201), answer
        for record, embedding, document in zip(ids, embeddings, documents, strict=True):
            is_there = record in collection.records
            if how == "delete":
                collection.records.pop(record, None)
            elif how == "upsert" or is_there == (how == "update"):
                collection.records[record] = (embedding, document)

    async def see_records(self, database: str, name: str, *, spelling: str = "plain") -> None:
        """Get, query and count records."""
        collection = self.databases[database][name]
        path = self.path(database, collection, spelling)
        answer = await self.ask(*_on(path, "get"))
        found = answer.content
        records = zip(found["ids"], found["embeddings"], found["documents"], strict=True)
        assert {record: (embedding, document) for record, embedding, document in records} == collection.records
        nearest = (await self.ask(*_on(path, "query"))).content
        assert set(nearest["ids"][0]) == set(collection.records)
        assert (await self.ask(*_on(path, "count"))).content == len(collection.records)

    async def intrude(self, database: str, collection_id: str, *, operation: str, spelling: str) -> None:
        """Use an id that is not in the database: somebody else's, one of another database, one that is gone."""
        path = f"{DATABASES}/{database}/collections/{SPELLINGS[spelling](collection_id)}"
        answer = await self.ask(*_on(path, operation))
        _is_error(answer, 404, "NotFoundError", f"Collection [{collection_id}] does not exist.")

    async def see_everything(self) -> None:
        """Compare all that there is with the model."""
        await self.see_identity()
        await self.see_databases()
        for database, collections in self.databases.items():
            await self.see_collections(database)
            for name in collections:
                await self.see_collection(database, name)
                await self.see_records(database, name)

    def path(self, database: str, collection: Collection, spelling: str) -> str:
        """Return the path of a collection."""
        return f"{DATABASES}/{database}/collections/{SPELLINGS[spelling](collection.id)}"


def _on(path: str, operation: str) -> tuple[str, str, Any]:
    method, tail, content = ON_RECORDS[operation]
    return method, path + tail, content


def _window(limit: int | None, offset: int | None) -> str:
    parts = [f"{name}={value}" for name, value in (("limit", limit), ("offset", offset)) if value is not None]
    return f"?{'&'.join(parts)}" if parts else ""


def _is_error(answer: Answer, status: int, error: str, message: str) -> None:
    assert (answer.status, answer.content) == (status, {"error": error, "message": message})
