"""A Chroma in memory that answers as the real one does, its lack of isolation included.

Tests of many steps run on it. The same steps run on a real Chroma, a smaller number of them, so that the two do not
drift apart.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from services.chroma.request_line import Query
from services.chroma.store import StoreAnswer

_T: Final = r"/api/v2/tenants/(?P<tenant>[^/]+)"
_D: Final = rf"{_T}/databases/(?P<database>[^/]+)"
_C: Final = rf"{_D}/collections/(?P<key>[^/]+)"


class _ChromaError(Exception):
    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.answer = _json({"error": error, "message": message}, status=status)


@dataclass
class _Collection:
    name: str
    metadata: Any
    place: tuple[str, str]
    id: str
    records: dict[str, tuple[list[float], Any]] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        tenant, database = self.place
        return {"id": self.id, "name": self.name, "metadata": self.metadata, "tenant": tenant, "database": database}


class MemoryChroma:
    """Tenants, databases, collections and records; ``requests`` are what was asked, as ``METHOD path``.

    Ids are random unless ``sequence``: then they are the same for the same requests.
    """

    def __init__(self, *, sequence: bool = False) -> None:
        self._numbers = itertools.count(1) if sequence else None
        self.requests: list[str] = []
        self.tenants = {"default_tenant"}
        self.databases: dict[tuple[str, str], str] = {("default_tenant", "default_database"): str(uuid.UUID(int=0))}
        self._collections: dict[str, _Collection] = {}
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., StoreAnswer]]] = [
            (method, re.compile(pattern), handler) for method, pattern, handler in self._table()
        ]

    def _table(self) -> list[tuple[str, str, Callable[..., StoreAnswer]]]:
        return [
            ("POST", "/api/v2/tenants", self._create_tenant),
            ("GET", _T, self._get_tenant),
            ("GET", rf"{_T}/databases", self._list_databases),
            ("POST", rf"{_T}/databases", self._create_database),
            ("GET", _D, self._get_database),
            ("DELETE", _D, self._delete_database),
            ("GET", rf"{_D}/collections", self._list_collections),
            ("POST", rf"{_D}/collections", self._create_collection),
            ("GET", rf"{_D}/collections_count", self._count_collections),
            ("GET", rf"{_D}/collections/by-id/(?P<key>[^/]+)", self._get_by_id),
            ("GET", _C, self._get_collection),
            ("DELETE", _C, self._delete_collection),
            ("PUT", _C, self._rename),
            ("POST", rf"{_C}/(?P<how>add|update|upsert|delete)", self._write),
            ("POST", rf"{_C}/(?P<how>get|query)", self._read),
            ("GET", rf"{_C}/count", self._count),
            ("GET", "/api/v2/heartbeat", lambda **_: _json({"nanosecond heartbeat": 1})),
        ]

    def _new_id(self) -> str:
        return str(uuid.UUID(int=next(self._numbers)) if self._numbers else uuid.uuid4())

    async def request(
        self, method: str, path: str, *, query: Query = (), body: bytes = b"", in_parts: bool = False
    ) -> StoreAnswer:
        """Answer, after others had their turn."""
        self.requests.append(f"{method} {path}")
        await asyncio.sleep(0)
        for route_method, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if route_method == method and match:
                slots = {name: unquote(text) for name, text in match.groupdict().items()}
                try:
                    return handler(content=json.loads(body or b"{}"), query=dict(query), **slots)
                except _ChromaError as error:
                    return error.answer
        return _json({}, status=404)

    def _create_tenant(self, *, content: Any, **_: Any) -> StoreAnswer:
        if content["name"] in self.tenants:
            raise _ChromaError(409, "ChromaError", f"Tenant [{content['name']}] already exists")
        self.tenants.add(content["name"])
        return _json({})

    def _get_tenant(self, *, tenant: str, **_: Any) -> StoreAnswer:
        if tenant not in self.tenants:
            raise _ChromaError(404, "NotFoundError", f"Tenant [{tenant}] not found")
        return _json({"name": tenant, "resource_name": None})

    def _list_databases(self, *, tenant: str, query: Mapping[str, str], **_: Any) -> StoreAnswer:
        names = sorted(database for of, database in self.databases if of == tenant)
        return _json([self._database(tenant, name) for name in names][_window(query)])

    def _database(self, tenant: str, name: str) -> dict[str, str]:
        return {"id": self.databases[tenant, name], "name": name, "tenant": tenant}

    def _create_database(self, *, tenant: str, content: Any, **_: Any) -> StoreAnswer:
        # A tenant that was never made can have databases, as in the real one.
        place = (tenant, content["name"])
        if place in self.databases:
            raise _ChromaError(409, "ChromaError", f"Database [{content['name']}] already exists")
        self.databases[place] = self._new_id()
        return _json({})

    def _get_database(self, *, tenant: str, database: str, **_: Any) -> StoreAnswer:
        if (tenant, database) not in self.databases:
            message = f"Database [{database}] not found. Are you sure it exists?"
            raise _ChromaError(404, "NotFoundError", message)
        return _json(self._database(tenant, database))

    def _delete_database(self, *, tenant: str, database: str, **_: Any) -> StoreAnswer:
        if self.databases.pop((tenant, database), None) is None:
            raise _ChromaError(404, "NotFoundError", f"Database [{database}] not found")
        for collection in self._in(tenant, database):
            del self._collections[collection.id]
        return _json({})

    def _in(self, tenant: str, database: str) -> list[_Collection]:
        return [found for found in self._collections.values() if found.place == (tenant, database)]

    def _list_collections(self, *, tenant: str, database: str, query: Mapping[str, str], **_: Any) -> StoreAnswer:
        return _json([found.content for found in self._in(tenant, database)][_window(query)])

    def _count_collections(self, *, tenant: str, database: str, **_: Any) -> StoreAnswer:
        return _json(len(self._in(tenant, database)))

    def _create_collection(self, *, tenant: str, database: str, content: Any, **_: Any) -> StoreAnswer:
        if (tenant, database) not in self.databases:
            raise _ChromaError(400, "InvalidArgumentError", f"Database [{database}] does not exist")
        name = content["name"]
        found = next((found for found in self._in(tenant, database) if found.name == name), None)
        if found is None:
            found = _Collection(name, content.get("metadata"), (tenant, database), self._new_id())
            self._collections[found.id] = found
        elif not content.get("get_or_create"):
            raise _ChromaError(409, "ChromaError", f"Collection [{name}] already exists")
        return _json(found.content)

    def _named(self, tenant: str, database: str, name: str) -> _Collection:
        for found in self._in(tenant, database):
            if found.name == name:
                return found
        raise _ChromaError(404, "NotFoundError", f"Collection [{name}] does not exist")

    def _get_collection(self, *, tenant: str, database: str, key: str, **_: Any) -> StoreAnswer:
        return _json(self._named(tenant, database, key).content)

    def _delete_collection(self, *, tenant: str, database: str, key: str, **_: Any) -> StoreAnswer:
        del self._collections[self._named(tenant, database, key).id]
        return _json({})

    def _get_by_id(self, *, tenant: str, database: str, key: str, **_: Any) -> StoreAnswer:
        found = self._anywhere(key)
        if found.place != (tenant, database):
            raise _ChromaError(404, "NotFoundError", f"Collection [{key}] does not exist")
        return _json(found.content)

    def _anywhere(self, key: str) -> _Collection:
        """Return a collection whatever the path says: the real Chroma does not look at tenant and database here."""
        found = self._collections.get(str(uuid.UUID(key)))
        if found is None:
            raise _ChromaError(404, "NotFoundError", f"Collection [{key}] does not exist.")
        return found

    def _rename(self, *, key: str, content: Any, **_: Any) -> StoreAnswer:
        found = self._anywhere(key)
        name = content["new_name"]
        if any(other.name == name and other is not found for other in self._in(*found.place)):
            raise _ChromaError(409, "ChromaError", f"Collection [{name}] already exists")
        found.name = name
        found.metadata = content.get("new_metadata", found.metadata)
        return _json({})

    def _write(self, *, key: str, how: str, content: Any, **_: Any) -> StoreAnswer:
        records = self._anywhere(key).records
        if how == "delete":
            gone = [records.pop(record) for record in content["ids"] if record in records]
            return _json({"deleted": len(gone)})
        documents = content.get("documents") or [None] * len(content["ids"])
        for record, embedding, document in zip(content["ids"], content["embeddings"], documents, strict=True):
            if how == "upsert" or (record in records) == (how == "update"):
                records[record] = (embedding, document)
        return _json({}, status=201 if how == "add" else 200)

    def _read(self, *, key: str, how: str, **_: Any) -> StoreAnswer:
        records = self._anywhere(key).records
        columns = {
            "ids": list(records),
            "embeddings": [embedding for embedding, _ in records.values()],
            "documents": [document for _, document in records.values()],
        }
        return _json(columns if how == "get" else {name: [column] for name, column in columns.items()})

    def _count(self, *, key: str, **_: Any) -> StoreAnswer:
        return _json(len(self._anywhere(key).records))


def _window(query: Mapping[str, str]) -> slice:
    start = int(query.get("offset", 0))
    return slice(start, start + int(query["limit"]) if "limit" in query else None)


def _json(content: Any, *, status: int = 200) -> StoreAnswer:
    return StoreAnswer(status, json.dumps(content).encode())
