"""Bodies on their way to Chroma and answers on their way back: other names, the same bytes for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from common.errors import Internal, UpstreamFailed, chroma_name
from common.settings import MAX_BODY_BYTES
from services.chroma.database_list import Page
from services.chroma.namespace import TENANT, Namespace
from services.chroma.refusals import error_body, invalid, missing, unreadable
from services.chroma.request_line import Query
from services.chroma.routes import AnswerKind

ROW_BYTES: Final = 48 * 1024
"""A large record as JSON: 1,536 numbers of up to 26 characters, and 9,216 bytes of id, document and metadata."""
MAX_BATCH_SIZE: Final = MAX_BODY_BYTES // ROW_BYTES
"""The largest number of records that clients are told to send at once, so that large ones fit a request's body."""
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FIELDS_OF_MANY: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_DATABASE_FIELDS: Final[Mapping[AnswerKind, str]] = MappingProxyType(
    {AnswerKind.DATABASE: "name", AnswerKind.COLLECTION: "database", AnswerKind.COLLECTIONS: "database"}
)
_UINT32_MAX: Final = 2**32 - 1


class _Error(msgspec.Struct):
    error: str
    message: str


def fields_of(body: bytes | memoryview) -> dict[str, msgspec.Raw]:
    """Return the fields of a request's body, each value as its bytes; raises Refusal when it is not an object.

    Of a key that stands there twice one value is left, so that no two readers can differ about it.
    """
    try:
        return _FIELDS.decode(body)
    except msgspec.ValidationError as error:
        raise unreadable(f"{error}.") from None
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from None


def forwarded_body(body: bytes | memoryview, *, keys: frozenset[str], namespace: Namespace) -> bytes:
    """Return a body with those of its keys that go on, and a ``database`` in it under its stored name.

    Raises Refusal when it is not an object, or names a database badly.
    """
    fields = fields_of(body)
    forwarded = {key: value for key, value in fields.items() if key in keys}
    database = _text(fields, "database")
    if database is not None:
        forwarded["database"] = msgspec.Raw(msgspec.json.encode(namespace.stored_name(database)))
    return msgspec.json.encode(forwarded)


def name_in(body: bytes | memoryview) -> str:
    """Return the name in a body that creates a database; raises Refusal when there is none."""
    name = _text(fields_of(body), "name")
    if name is None:
        raise unreadable("missing field `name`")
    return name


def forwarded_query(query: Query, *, namespace: Namespace, slots: Mapping[str, str]) -> Query:
    """Return the query as it goes on: databases under their stored names, no tenant, nothing that contradicts the path.

    ``slots`` is what the path says. Raises Refusal for a bad name or another tenant.
    """
    forwarded = []
    for name, value in query:
        if name == "tenant":
            check_tenant(value)
            continue
        text = namespace.stored_name(value) if name == "database" else value
        if slots.get(name, value) == value:
            forwarded.append((name, text))
    return tuple(forwarded)


def check_tenant(tenant: str) -> None:
    """Return for the one tenant that a user sees; raises Refusal for any other."""
    if tenant != TENANT:
        raise missing(f"Tenant [{tenant}] not found")


def page_of(query: Query) -> Page:
    """Return the part of a list that a query's limit and offset ask for; raises Refusal as Chroma does."""
    bounds: dict[str, int] = {}
    for name, value in query:
        if name not in ("limit", "offset"):
            continue
        if not (value.isascii() and value.isdigit()):
            raise _bad_query(f"{name}: invalid digit found in string")
        if len(value) > 10 or int(value) > _UINT32_MAX:
            raise _bad_query(f"{name}: number too large to fit in target type")
        bounds[name] = int(value)
    return Page(limit=bounds.get("limit"), offset=bounds.get("offset", 0))


def rewritten_answer(body: bytes, *, kind: AnswerKind, namespace: Namespace, tenant: str) -> bytes:
    """Return a good answer under the user's own names; ``tenant`` is the one that Chroma was asked for.

    Raises UpstreamFailed when it cannot be read, Internal when it is about something that is not the user's.
    """
    if kind is AnswerKind.OTHER:
        return body
    try:
        if kind is AnswerKind.COLLECTIONS:
            many = _FIELDS_OF_MANY.decode(body)
            return msgspec.json.encode([_renamed(fields, kind, namespace, tenant) for fields in many])
        fields = _FIELDS.decode(body)
        if kind is AnswerKind.LIMITS:
            return msgspec.json.encode(_limited(fields))
        return msgspec.json.encode(_renamed(fields, kind, namespace, tenant))
    except (ValueError, KeyError, RecursionError):
        raise UpstreamFailed("Chroma's answer cannot be read.", code="upstream_malformed") from None


def rewritten_error(body: bytes, *, status: int, namespace: Namespace, database: str) -> bytes:
    """Return a bad answer in Chroma's form, under the user's own names; text of another form stays behind."""
    try:
        error = msgspec.json.decode(body, type=_Error)
    except (ValueError, RecursionError):
        return error_body(chroma_name(status), f"The Chroma server answered {status}.")
    return error_body(error.error, namespace.scrub(error.message, database=database))


def _renamed(
    fields: dict[str, msgspec.Raw], kind: AnswerKind, namespace: Namespace, tenant: str
) -> dict[str, msgspec.Raw]:
    key = _DATABASE_FIELDS[kind]
    stored = msgspec.json.decode(fields[key], type=str)
    fields[key] = msgspec.Raw(msgspec.json.encode(namespace.own_name(stored)))
    if "tenant" in fields:
        if msgspec.json.decode(fields["tenant"], type=str) != tenant:
            raise Internal("Chroma answered with a tenant that was not asked for.", code="foreign_tenant")
        fields["tenant"] = msgspec.Raw(msgspec.json.encode(TENANT))
    return fields


def _limited(fields: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    if "max_batch_size" in fields:
        limit = msgspec.json.decode(fields["max_batch_size"], type=int)
        fields["max_batch_size"] = msgspec.Raw(msgspec.json.encode(min(limit, MAX_BATCH_SIZE)))
    return fields


def _text(fields: dict[str, msgspec.Raw], key: str) -> str | None:
    """Return a text field, None where there is none; raises Refusal for another type."""
    raw = fields.get(key)
    if raw is None:
        return None
    try:
        value: Any = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        # The decoder of the fields has not looked into the value: text that is not UTF-8, numbers out of range.
        raise _not_json(error) from None
    if value is not None and not isinstance(value, str):
        raise unreadable(f"{key}: expected a string")
    return value


def _not_json(error: Exception) -> Exception:
    return invalid(f"Failed to parse the request body as JSON: {error}", code="invalid_json")


def _bad_query(problem: str) -> Exception:
    return invalid(f"Failed to deserialize query string: {problem}", code="invalid_query")
