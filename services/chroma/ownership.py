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
from services.chroma.namespace import Namespace
from services.chroma.refusals import invalid, missing
from services.chroma.remembered import Remembered
from services.chroma.upstream import Upstream, database_path

_SECONDS: Final = 5.0
_CAPACITY: Final = 10_000
_HEX: Final = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_HYPHENS: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class _Found(msgspec.Struct):
    id: str
    database: str


def canonical(written: str) -> str:
    """Return a UUID in its usual spelling; raises Refused for what Chroma does not take for one.

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
    """Asks Chroma whose a collection is, and remembers a yes for seconds.

    A collection never changes its database, so that a yes stays true; of a deleted one Chroma knows nothing any more.
    """

    def __init__(self, upstream: Upstream, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._known: Remembered[tuple[str, str, str]] = Remembered(seconds=_SECONDS, capacity=_CAPACITY, clock=clock)

    async def check(self, namespace: Namespace, *, database: str, collection_id: str) -> None:
        """Return if the collection is in the user's database of that name; raises Refused, or UpstreamFailed.

        ``collection_id`` is canonical. A stranger's collection is as unknown as one that never was.
        """
        key = (namespace.user_id, database, collection_id)
        if key in self._known:
            return
        stored = namespace.stored(database)
        answer = await self._upstream.request("GET", f"{database_path(stored)}/collections/by-id/{collection_id}")
        if answer.status == 404:
            raise missing(f"Collection [{collection_id}] does not exist.")
        if answer.status != 200 or not _is(answer.body, collection_id=collection_id, stored=stored):
            raise UpstreamFailed("Chroma did not say whose this collection is.", code="upstream_malformed")
        self._known.add(key)


def _is(body: bytes, *, collection_id: str, stored: str) -> bool:
    try:
        found = msgspec.json.decode(body, type=_Found)
    except (ValueError, RecursionError):
        return False
    return found.id == collection_id and found.database == stored
