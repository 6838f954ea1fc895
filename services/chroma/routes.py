"""Every method and path that the gateway lets through to Chroma, and what it does with each; all else is refused.

Source: /openapi.json of Chroma 1.5.9. A template's slots are ``{tenant}``, ``{database}``, ``{collection}`` (a name),
``{collection_id}`` (a UUID, checked for ownership before anything is forwarded) and ``{any}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from services.chroma.refusals import missing, not_isolated, outdated, wrong_method


class Action(Enum):
    """What the gateway does with a request."""

    FORWARD = "forward"
    IDENTITY = "identity"
    """Answered here: Chroma knows one identity only, its own."""
    TENANT = "tenant"
    """Answered here: a user sees one tenant."""
    LIST_DATABASES = "list_databases"
    """The user's part of Chroma's list."""
    CREATE_DATABASE = "create_database"
    """Forwarded, with a name of the user's."""
    REFUSE = "refuse"


class AnswerKind(Enum):
    """What is in a good answer, as far as something in it is rewritten."""

    OTHER = "other"
    """Nothing is rewritten."""
    DATABASE = "database"
    COLLECTION = "collection"
    COLLECTIONS = "collections"
    LIMITS = "limits"
    """What Chroma takes at once."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path.

    ``keys`` are those of the body that go on, None when no body does. ``upstream`` is the template of Chroma's path
    where it is another.
    """

    method: str
    template: str
    action: Action = Action.FORWARD
    keys: frozenset[str] | None = None
    answer: AnswerKind = AnswerKind.OTHER
    upstream: str = ""
    refusal: str = ""


_V2: Final = "/api/v2"
_TENANT: Final = f"{_V2}/tenants/{{tenant}}"
_DATABASES: Final = f"{_TENANT}/databases"
_DATABASE: Final = f"{_DATABASES}/{{database}}"
_COLLECTIONS: Final = f"{_DATABASE}/collections"
_NAMED: Final = f"{_COLLECTIONS}/{{collection}}"
_RECORDS: Final = f"{_COLLECTIONS}/{{collection_id}}"

_BATCH: Final = frozenset({"ids", "embeddings", "documents", "uris", "metadatas"})
_WHERE: Final = frozenset({"ids", "where", "where_document"})


def _refused(method: str, template: str, refusal: str) -> Route:
    return Route(method, template, Action.REFUSE, refusal=refusal)


ROUTES: Final = (
    Route("GET", "", upstream=f"{_V2}/heartbeat"),
    Route("GET", _V2),
    Route("GET", f"{_V2}/heartbeat"),
    Route("GET", f"{_V2}/healthcheck"),
    Route("GET", f"{_V2}/version"),
    Route("GET", f"{_V2}/pre-flight-checks", answer=AnswerKind.LIMITS),
    Route("GET", f"{_V2}/auth/identity", Action.IDENTITY),
    Route("GET", _TENANT, Action.TENANT),
    Route("GET", _DATABASES, Action.LIST_DATABASES),
    Route("POST", _DATABASES, Action.CREATE_DATABASE, keys=frozenset({"name"})),
    Route("GET", _DATABASE, answer=AnswerKind.DATABASE),
    Route("DELETE", _DATABASE),
    Route("GET", _COLLECTIONS, answer=AnswerKind.COLLECTIONS),
    Route(
        "POST",
        _COLLECTIONS,
        keys=frozenset({"name", "metadata", "configuration", "schema", "get_or_create"}),
        answer=AnswerKind.COLLECTION,
    ),
    Route("GET", f"{_DATABASE}/collections_count"),
    Route("GET", f"{_COLLECTIONS}/by-id/{{collection_id}}", answer=AnswerKind.COLLECTION),
    # The same place in the path is a collection's name to GET and DELETE, and its UUID to PUT.
    Route("GET", _NAMED, answer=AnswerKind.COLLECTION),
    Route("DELETE", _NAMED),
    Route("PUT", _RECORDS, keys=frozenset({"new_name", "new_metadata", "new_configuration"})),
    Route("POST", f"{_RECORDS}/add", keys=_BATCH),
    Route("POST", f"{_RECORDS}/update", keys=_BATCH),
    Route("POST", f"{_RECORDS}/upsert", keys=_BATCH),
    Route("POST", f"{_RECORDS}/delete", keys=_WHERE | {"limit"}),
    Route("POST", f"{_RECORDS}/get", keys=_WHERE | {"include", "limit", "offset"}),
    Route("POST", f"{_RECORDS}/query", keys=_WHERE | {"include", "query_embeddings", "n_results"}),
    Route("POST", f"{_RECORDS}/search", keys=frozenset({"searches", "read_level"})),
    Route("GET", f"{_RECORDS}/count"),
    Route("GET", f"{_RECORDS}/indexing_status"),
    _refused("POST", f"{_V2}/reset", "Reset is"),
    _refused("POST", f"{_V2}/tenants", "Tenants are"),
    _refused("PATCH", _TENANT, "Tenants are"),
    _refused("GET", f"{_V2}/collections/{{any}}", "Collections by CRN are"),
    _refused("POST", f"{_RECORDS}/fork", "Forks are"),
    _refused("GET", f"{_RECORDS}/fork_count", "Forks are"),
    _refused("POST", f"{_RECORDS}/functions/attach", "Functions are"),
    _refused("GET", f"{_RECORDS}/functions/{{any}}", "Functions are"),
    _refused("POST", f"{_RECORDS}/attached_functions/{{any}}/detach", "Functions are"),
)


def segments_of(template: str) -> tuple[str, ...]:
    """Return a template's parts."""
    return tuple(template.split("/")[1:])


def _by_length() -> Mapping[int, Sequence[tuple[tuple[str, ...], Route]]]:
    found: dict[int, list[tuple[tuple[str, ...], Route]]] = {}
    for route in ROUTES:
        parts = segments_of(route.template)
        found.setdefault(len(parts), []).append((parts, route))
    return found


_TABLE: Final = _by_length()


def find(method: str, segments: Sequence[str]) -> tuple[Route, dict[str, str]]:
    """Return the route of a request and what fills its slots; raises Refusal when there is none, or it is refused."""
    if tuple(segments[:2]) == ("api", "v1"):
        raise outdated()
    wanted = "GET" if method == "HEAD" else method
    allowed: set[str] = set()
    for parts, route in _TABLE.get(len(segments), ()):
        slots = _slots(parts, segments)
        if slots is None:
            continue
        if route.method == wanted:
            if route.action is Action.REFUSE:
                raise not_isolated(route.refusal)
            return route, slots
        allowed |= {"GET", "HEAD"} if route.method == "GET" else {route.method}
    if allowed:
        raise wrong_method(allowed)
    raise missing("There is no such path.", code="unknown_url")


def _slots(parts: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    slots = {}
    for part, segment in zip(parts, segments, strict=True):
        if part.startswith("{"):
            slots[part[1:-1]] = segment
        elif part != segment:
            return None
    return slots
