"""Bodies on their way to Chroma and answers on their way back: other names, the same bytes for everything else."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from common.errors import UpstreamFailed, chroma_name
from services.chroma.namespace import TENANT, Namespace
from services.chroma.refusals import error_body, invalid, missing, unreadable
from services.chroma.request_line import Query
from services.chroma.routes import Holds

_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MANY_FIELDS: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_NAMING: Final = {Holds.DATABASE: "name", Holds.COLLECTION: "database", Holds.COLLECTIONS: "database"}
_UINT32_MAX: Final = 2**32 - 1


class _Error(msgspec.Struct):
    error: str
    message: str


def fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """Return the fields of a request's body, each value as its bytes; raises Refused when it is not an object.

    Of a key that stands there twice one value is left, so that no two readers can differ about it.
    """
    try:
        return _FIELDS.decode(body)
    except msgspec.ValidationError as error:
        raise unreadable(f"{error}.") from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"Failed to parse the request body as JSON: {error}", code="invalid_json") from None


def forwarded_body(body: bytes, *, keys: frozenset[str], namespace: Namespace) -> bytes:
    """Return a body with those of its keys that go on, and a ``database`` in it under its stored name.

    Raises Refused when it is not an object, or names a database badly.
    """
    fields = fields_of(body)
    kept = {key: value for key, value in fields.items() if key in keys}
    database = _text(fields, "database")
    if database is not None:
        kept["database"] = msgspec.Raw(msgspec.json.encode(namespace.stored(database)))
    return msgspec.json.encode(kept)


def name_in(body: bytes) -> str:
    """Return the name in a body that creates a database; raises Refused when there is none."""
    name = _text(fields_of(body), "name")
    if name is None:
        raise unreadable("missing field `name`")
    return name


def forwarded_query(query: Query, *, namespace: Namespace) -> Query:
    """Return the query as it goes on: databases under their stored names, and no tenant.

    Raises Refused for a bad name or another tenant.
    """
    kept = []
    for name, value in query:
        if name == "tenant":
            check_tenant(value)
        elif name == "database":
            kept.append((name, namespace.stored(value)))
        else:
            kept.append((name, value))
    return tuple(kept)


def check_tenant(tenant: str) -> None:
    """Return for the one tenant there is; raises Refused for any other."""
    if tenant != TENANT:
        raise missing(f"Tenant [{tenant}] not found")


def window(query: Query) -> slice:
    """Return the part of a list that a query's limit and offset ask for; raises Refused as Chroma does."""
    bounds: dict[str, int] = {}
    for name, value in query:
        if name not in ("limit", "offset"):
            continue
        problem = f"Failed to deserialize query string: {name}: invalid digit found in string"
        if name in bounds:
            problem = f"Failed to deserialize query string: duplicate field `{name}`"
        elif value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= _UINT32_MAX:
            bounds[name] = int(value)
            continue
        raise invalid(problem, code="invalid_query")
    start = bounds.get("offset", 0)
    return slice(start, start + bounds["limit"] if "limit" in bounds else None)


def shown_answer(body: bytes, *, holds: Holds, namespace: Namespace) -> bytes:
    """Return a good answer under the user's own names.

    Raises UpstreamFailed when it cannot be read, Internal when it is about something that is not the user's.
    """
    if holds is Holds.NOTHING:
        return body
    key = _NAMING[holds]
    try:
        if holds is Holds.COLLECTIONS:
            return msgspec.json.encode([_shown(fields, key, namespace) for fields in _MANY_FIELDS.decode(body)])
        return msgspec.json.encode(_shown(_FIELDS.decode(body), key, namespace))
    except (ValueError, KeyError, RecursionError):
        raise UpstreamFailed("Chroma's answer cannot be read.", code="upstream_malformed") from None


def shown_error(body: bytes, *, status: int, namespace: Namespace, database: str) -> bytes:
    """Return a bad answer in Chroma's form, under the user's own names; text of another form stays behind."""
    try:
        error = msgspec.json.decode(body, type=_Error)
    except (ValueError, RecursionError):
        return error_body(chroma_name(status), f"The Chroma server answered {status}.")
    return error_body(error.error, namespace.scrubbed(error.message, name=database))


def _shown(fields: dict[str, msgspec.Raw], key: str, namespace: Namespace) -> dict[str, msgspec.Raw]:
    stored = msgspec.json.decode(fields[key], type=str)
    fields[key] = msgspec.Raw(msgspec.json.encode(namespace.shown(stored)))
    return fields


def _text(fields: dict[str, msgspec.Raw], key: str) -> str | None:
    """Return a text field, None where there is none; raises Refused for another type."""
    raw = fields.get(key)
    if raw is None:
        return None
    value: Any = msgspec.json.decode(raw)
    if value is not None and not isinstance(value, str):
        raise unreadable(f"{key}: expected a string")
    return value
