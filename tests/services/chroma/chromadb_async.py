"""A program that uses chromadb's async client: ``owner URL TOKEN`` or ``stranger URL TOKEN UUID``.

A process for each user, because the client keeps one HTTP session for all clients of an event loop: a second user in
the same loop would send the first one's credential.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import chromadb
import pytest
from chromadb.api import AsyncClientAPI
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.config import Settings
from chromadb.errors import AuthorizationError, ChromaError, NotFoundError

from tests.services.chroma.chromadb_sync import ONE, Vectors


async def connect(url: str, token: str, **options: Any) -> AsyncClientAPI:
    """Return a client as the documentation shows it."""
    settings = Settings(anonymized_telemetry=False)
    headers = {"Authorization": f"Bearer {token}"}
    return await chromadb.AsyncHttpClient(host=url, headers=headers, settings=settings, **options)


async def use_everything(client: AsyncClientAPI, *, word: str) -> AsyncCollection:
    """Do everything there is; the documents hold ``word``. One collection stays."""
    assert await client.heartbeat() > 0
    assert await client.list_collections() == []
    collection = await client.create_collection("notes", embedding_function=None)
    with pytest.raises(ChromaError, match="already exists"):
        await client.create_collection("notes", embedding_function=None)
    embeddings: Vectors = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    await collection.add(ids=["a", "b", "c"], embeddings=embeddings, documents=[f"{word} {name}" for name in "abc"])
    await collection.update(ids=["b"], embeddings=ONE, documents=[f"{word} new b"])
    far: Vectors = [[6.0, 6.0]]
    await collection.upsert(ids=["d"], embeddings=far, documents=[f"{word} d"])
    await collection.delete(ids=["a"])
    assert await collection.count() == 3
    assert (await collection.get(ids=["b"]))["documents"] == [f"{word} new b"]
    assert sorted((await collection.peek())["ids"]) == ["b", "c", "d"]
    assert (await collection.query(query_embeddings=far, n_results=1))["ids"] == [["d"]]
    await collection.modify(name="renamed")
    assert (await client.get_collection("renamed", embedding_function=None)).id == collection.id
    await collection.modify(name="notes")
    await client.get_or_create_collection("more", embedding_function=None)
    listed = [part.name for offset in (0, 1) for part in await client.list_collections(limit=1, offset=offset)]
    assert sorted(listed) == ["more", "notes"]
    assert await client.count_collections() == 2
    await client.delete_collection("more")
    with pytest.raises(NotFoundError):
        await client.get_collection("more", embedding_function=None)
    return collection


async def find_nothing(own: AsyncCollection, strange: uuid.UUID) -> None:
    """Use a stranger's collection in every way: it is not there."""
    own._model.id = strange
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: own.add(ids=["x"], embeddings=ONE),
        lambda: own.update(ids=["b"], embeddings=ONE),
        lambda: own.upsert(ids=["b"], embeddings=ONE),
        lambda: own.delete(ids=["b"]),
        lambda: own.get(ids=["b"]),
        own.peek,
        lambda: own.query(query_embeddings=ONE),
        own.count,
        lambda: own.modify(name="stolen"),
        own.get_indexing_status,
    ]
    for attempt in attempts:
        with pytest.raises(NotFoundError, match="does not exist"):
            await attempt()
    with pytest.raises(AuthorizationError, match="Forks"):
        await own.fork("stolen")


async def main(role: str, url: str, token: str, *others: str) -> None:
    """Play one user."""
    client = await connect(url, token)
    with pytest.raises(NotFoundError):
        await connect(url, token, database="no-such-database")
    own = await use_everything(client, word=role)
    sys.stdout.write(f"{own.id}\n")
    for other in others:
        await find_nothing(own, uuid.UUID(other))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
