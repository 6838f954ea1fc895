"""Finds out whether a collection belongs to the database under which somebody asks for it.

Chroma itself does not: with a collection's UUID its records can be read and changed under any database's path, even
that of none. The only route that looks at both is ``collections/by-id``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import msgspec

from common.errors import UpstreamFailed
from services.chroma.expiring_cache import ExpiringCache
from services.chroma.namespace import Namespace
from services.chroma.refusals import invalid, missing
from services.chroma.store import Store, database_path

_SECONDS: Final = 5.0
_CAPACITY: Final = 10_000
_HEX: Final = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_HYPHENS: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class _Collection(msgspec.Struct):
    id: str
    database: str
    tenant: str


def canonical(written: str) -> str:
    """Return a UUID in its usual spelling; raises Refusal for what Chroma does not take for one.

    Chroma also takes capitals, no hyphens, ``{braces}`` and ``urn:uuid:``; source: the Rust crate ``uuid``, parser.rs.
    """
    hyphenated = written
    if written.startswith("{") and written.endswith("}"):
        hyphenated = written[1:-1]
    elif written.startswith("urn:uuid:"):
        hyphenated = written.removeprefix("urn:uuid:")
    elif _HEX.fullmatch(written):
        hyphenated = "-".join((written[:8], written[8:12], written[12:16], written[16:20], written[20:]))
    if not _HYPHENS.fullmatch(hyphenated):
        raise invalid("Collection ID is not a valid UUIDv4", code="invalid_collection_id")
    return hyphenated.lower()


class Ownership:
    """Asks Chroma whether a collection is in a database, and takes a yes for seconds.

    A collection never changes its database, so that a yes stays true; of a deleted one Chroma knows nothing any more.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._owned: ExpiringCache[tuple[str, str, str], str] = ExpiringCache(
            seconds=_SECONDS, capacity=_CAPACITY, clock=clock
        )

    async def check(self, namespace: Namespace, *, tenant: str, database: str, collection_id: str) -> None:
        """Return if the collection is in the user's database of that name; raises Refusal, or UpstreamFailed.

        ``collection_id`` is canonical, ``tenant`` the user's. A stranger's collection is as unknown as one that never
        was.
        """
        key = (namespace.user_id, database, collection_id)
        if self._owned.get(key) == tenant:
            return
        stored = namespace.stored_name(database)
        path = f"{database_path(tenant, stored)}/collections/by-id/{collection_id}"
        answer = await self._store.request("GET", path)
        if answer.status == 404:
            raise missing(f"Collection [{collection_id}] does not exist.")
        if answer.status != 200 or _read(answer.body) != _Collection(collection_id, stored, tenant):
            raise UpstreamFailed("Chroma did not say in which database this collection is.", code="upstream_malformed")
        self._owned.put(key, tenant)


def _read(body: bytes) -> _Collection | None:
    try:
        return msgspec.json.decode(body, type=_Collection)
    except (ValueError, RecursionError):
        return None
