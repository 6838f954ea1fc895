"""A program that uses chromadb's clients: ``users``, ``databases`` or ``refusals``, then URL TOKEN TOKEN of two users.

A program, because chromadb leaves sockets open where a client could not be made, and pytest takes that for a failure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import chromadb
import pytest
from chromadb.api import AdminAPI, ClientAPI
from chromadb.api.models.Collection import Collection
from chromadb.config import Settings
from chromadb.errors import AuthorizationError, ChromaAuthError, ChromaError, InvalidArgumentError, NotFoundError

Vectors: TypeAlias = list[Sequence[float] | Sequence[int]]
ONE: Final[Vectors] = [[1.0, 1.0]]


def client_of(url: str, token: str, **options: Any) -> ClientAPI:
    """Return a client as the documentation shows it."""
    settings = Settings(anonymized_telemetry=False)
    return chromadb.HttpClient(host=url, headers={"Authorization": f"Bearer {token}"}, settings=settings, **options)


def admin_of(url: str, token: str) -> AdminAPI:
    """Return a client for databases."""
    return chromadb.AdminClient(
        Settings(
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host=url,
            chroma_server_http_port=1,
            chroma_server_headers={"Authorization": f"Bearer {token}"},
            anonymized_telemetry=False,
        )
    )


def use_everything(client: ClientAPI, *, word: str) -> Collection:
    """Do everything there is with collections and records; the documents hold ``word``. One collection stays."""
    assert client.heartbeat() > 0
    assert client.get_version()
    assert client.get_max_batch_size() > 0
    assert client.list_collections() == []
    collection = client.create_collection("notes", metadata={"owner": word}, embedding_function=None)
    assert collection.database == client.database
    with pytest.raises(ChromaError, match=r"Collection \[notes\] already exists"):
        client.create_collection("notes", embedding_function=None)
    _write(collection, word)
    _read(collection, word)
    collection.modify(name="renamed", metadata={"owner": "else"})
    assert client.get_collection("renamed", embedding_function=None).metadata == {"owner": "else"}
    assert client.get_collection_by_id(collection.id, embedding_function=None).name == "renamed"
    collection.modify(name="notes")
    for number in range(4):
        client.get_or_create_collection(f"more-{number}", embedding_function=None)
    assert client.count_collections() == 5
    listed = [part.name for offset in (0, 2, 4) for part in client.list_collections(limit=2, offset=offset)]
    assert sorted(listed) == ["more-0", "more-1", "more-2", "more-3", "notes"]
    for number in range(4):
        client.delete_collection(f"more-{number}")
    with pytest.raises(NotFoundError):
        client.get_collection("more-0", embedding_function=None)
    return collection


def _write(collection: Collection, word: str) -> None:
    ids = ["a", "b", "c"]
    metadatas: list[Any] = [{"n": number} for number in range(3)]
    three: Vectors = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    two: Vectors = [[5.0, 5.0], [6.0, 6.0]]
    collection.add(ids=ids, embeddings=three, documents=[f"{word} {name}" for name in ids], metadatas=metadatas)
    collection.update(ids=["b"], embeddings=ONE, documents=[f"{word} new b"], metadatas=[{"n": 10}])
    collection.upsert(ids=["c", "d"], embeddings=two, documents=[f"{word} c", f"{word} d"])
    collection.delete(ids=["a"])


def _read(collection: Collection, word: str) -> None:
    assert collection.count() == 3
    found = collection.get(ids=["b", "c"], include=["documents", "metadatas", "embeddings"])
    assert dict(zip(found["ids"], found["documents"] or (), strict=True)) == {"b": f"{word} new b", "c": f"{word} c"}
    assert collection.get(where={"n": 10})["ids"] == ["b"]
    assert collection.get(where_document={"$contains": " new "})["ids"] == ["b"]
    assert collection.get(limit=1, offset=1)["ids"] == ["c"]
    assert sorted(collection.peek(limit=2)["ids"]) == ["b", "c"]
    near: Vectors = [[6.0, 6.0]]
    nearest = collection.query(query_embeddings=near, n_results=2)
    assert nearest["ids"] == [["d", "c"]]
    assert nearest["documents"] == [[f"{word} d", f"{word} c"]]


def manage_databases(admin: AdminAPI, connect: Callable[[str], ClientAPI]) -> None:
    """Create, list, use and delete databases; ``connect`` returns a client for one."""
    for name in ("work", "play", "rest"):
        admin.create_database(name)
    with pytest.raises(ChromaError, match=r"Database \[work\] already exists"):
        admin.create_database("work")
    database = admin.get_database("work")
    assert (database["name"], database["tenant"]) == ("work", "default_tenant")
    assert [found["name"] for found in admin.list_databases()] == ["default_database", "play", "rest", "work"]
    assert [found["name"] for found in admin.list_databases(limit=2, offset=1)] == ["play", "rest"]
    client = connect("work")
    assert client.create_collection("inside", embedding_function=None).database == "work"
    assert connect("play").list_collections() == []
    admin.delete_database("play")
    with pytest.raises(NotFoundError, match=r"Database \[play\] not found"):
        admin.get_database("play")
    with pytest.raises(NotFoundError):
        connect("play")
    with pytest.raises(InvalidArgumentError, match="Expected a name"):
        admin.create_database("no good!")
    with pytest.raises(AuthorizationError, match="not available"):
        admin.create_tenant("mine-alone")


def find_nothing(client: ClientAPI, strange: Collection) -> None:
    """Use a stranger's collection in every way: it is not there."""
    with pytest.raises(NotFoundError):
        client.get_collection_by_id(strange.id, embedding_function=None)
    collection = Collection(client=client._server, model=strange._model, embedding_function=None)  # type: ignore[attr-defined]
    attempts: list[Callable[[], Any]] = [
        lambda: collection.add(ids=["x"], embeddings=ONE),
        lambda: collection.update(ids=["b"], embeddings=ONE),
        lambda: collection.upsert(ids=["b"], embeddings=ONE),
        lambda: collection.delete(ids=["b"]),
        lambda: collection.get(ids=["b"]),
        collection.peek,
        lambda: collection.query(query_embeddings=ONE),
        collection.count,
        lambda: collection.modify(name="stolen"),
        collection.get_indexing_status,
    ]
    for attempt in attempts:
        with pytest.raises(NotFoundError, match="does not exist"):
            attempt()
    with pytest.raises(AuthorizationError, match="Forks"):
        collection.fork("stolen")


def refused(url: str, token: str, client: ClientAPI) -> None:
    """See what is refused, and with which of chromadb's exceptions."""
    with pytest.raises(AuthorizationError, match="Reset is not available"):
        client.reset()
    with pytest.raises(ChromaAuthError, match="not known"):
        client_of(url, "wrong")
    with pytest.raises(NotFoundError, match=r"Tenant \[other\] not found"):
        client_of(url, token, tenant="other")


def over_chroma_token(url: str, token: str) -> None:
    """Send the credential as chromadb's own token provider does, in both of its headers."""
    for header in ("Authorization", "X-Chroma-Token"):
        settings = Settings(
            anonymized_telemetry=False,
            chroma_client_auth_provider="chromadb.auth.token_authn.TokenAuthClientProvider",
            chroma_client_auth_credentials=token,
            chroma_auth_token_transport_header=header,
        )
        assert chromadb.HttpClient(host=url, settings=settings).heartbeat() > 0


def two_users(url: str, *tokens: str) -> None:
    """Two users with the same names."""
    alice, bob = (client_of(place, token) for place, token in zip((url, f"{url}/"), tokens, strict=True))
    notes_of_alice, notes_of_bob = use_everything(alice, word="alice"), use_everything(bob, word="bob")
    assert notes_of_alice.id != notes_of_bob.id
    find_nothing(bob, notes_of_alice)
    find_nothing(alice, notes_of_bob)
    for word, client in (("alice", alice), ("bob", bob)):
        kept = client.get_collection("notes", embedding_function=None).get()
        assert kept["documents"] == [f"{word} new b", f"{word} c", f"{word} d"]


def two_users_with_databases(url: str, *tokens: str) -> None:
    """Two users with databases of the same names."""
    for token in tokens:
        manage_databases(admin_of(url, token), partial(_connect, url, token))


def _connect(url: str, token: str, database: str) -> ClientAPI:
    return client_of(url, token, database=database)


def refusals(url: str, token: str, _: str) -> None:
    """What raises which exception."""
    refused(url, token, client_of(f"{url}/api/v2", token))
    over_chroma_token(url, token)


if __name__ == "__main__":
    flows: dict[str, Callable[[str, str, str], None]] = {
        "users": two_users,
        "databases": two_users_with_databases,
        "refusals": refusals,
    }
    flows[sys.argv[1]](*sys.argv[2:])
