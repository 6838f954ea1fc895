"""Renders the errors of the edge: Envoy's local replies, and the table from which answers.lua answers for a service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from deploy.envoy.dialects import ERRORS, OTHER_CLIENT_ERROR, OTHER_SERVER_ERROR, EdgeError, ErrorDialect

Json = dict[str, Any]
_ENVOYS_WORDS: Final = "%LOCAL_REPLY_BODY%"
_JSON: Final = "application/json"
_GRPC: Final = {
    "header_filter": {
        "header": {"name": "content-type", "string_match": {"safe_regex": {"regex": r"application/grpc([+;].*)?"}}}
    }
}
_NOT_TRANSCODED: Final = {
    # The transcoder makes a gRPC call of an HTTP request, and keeps its path here.
    "header_filter": {"header": {"name": "x-envoy-original-path", "present_match": True, "invert_match": True}}
}

_PREFLIGHT: Final = {"header_filter": {"header": {"name": ":method", "string_match": {"exact": "OPTIONS"}}}}
_UNAUTHENTICATED: Final = next(error for error in ERRORS if error.status == 401)


def local_reply_config(dialects: Mapping[str, ErrorDialect], *, default: ErrorDialect) -> Json:
    """Return the LocalReplyConfig: ``dialects`` says which one holds under a path, ``default`` elsewhere."""
    # gRPC callers read a status and words, no JSON; and the answer to a preflight has no body.
    words = [_mapped(_all([_GRPC, _NOT_TRANSCODED])), _mapped(_all([_PREFLIGHT, _status("LE", 399)]))]
    mappers = [mapper for prefix, dialect in dialects.items() for mapper in _mappers(dialect, under=prefix)]
    mappers += _mappers(default)
    return {"mappers": [*words, *mappers], "body_format": _format(default, OTHER_SERVER_ERROR)}


def lua_table(dialects: Iterable[ErrorDialect]) -> str:
    """Return Lua that defines ERRORS: by dialect, then by status, the body and, where there is one, retry-after."""
    rows = [
        f"  [{_lua(dialect.name)}] = {{\n" + "".join(_lua_row(dialect, error) for error in ERRORS) + "  },\n"
        for dialect in dialects
    ]
    return "local ERRORS = {\n" + "".join(rows) + "}\n"


def _lua_row(dialect: ErrorDialect, error: EdgeError) -> str:
    body = json.dumps(dialect.body(error, error.message or "The service refused this request."), separators=(",", ":"))
    retry = f", retry = {_lua(str(error.retry_seconds))}" if error.retry_seconds else ""
    return f"    [{_lua(str(error.status))}] = {{body = {_lua(body)}{retry}}},\n"


def _lua(text: str) -> str:
    # JSON's escapes are Lua's as long as the text is ASCII.
    return json.dumps(text)


def _mappers(dialect: ErrorDialect, *, under: str | None = None) -> Iterator[Json]:
    on_path = [_under(under)] if under else []
    # A body that was read for nobody: see refused_after_the_body.
    yield {**_mapper(dialect, _UNAUTHENTICATED, [*on_path, _status("EQ", 200)]), "status_code": _UNAUTHENTICATED.status}
    for error in ERRORS:
        yield _mapper(dialect, error, [*on_path, _status("EQ", error.status)])
    yield _mapper(dialect, OTHER_SERVER_ERROR, [*on_path, _status("GE", OTHER_SERVER_ERROR.status)])
    yield _mapper(dialect, OTHER_CLIENT_ERROR, [*on_path, _status("LE", OTHER_CLIENT_ERROR.status)])


def _mapper(dialect: ErrorDialect, error: EdgeError, filters: list[Json]) -> Json:
    mapper: Json = {"filter": _all(filters), "body_format_override": _format(dialect, error)}
    if error.retry_seconds:
        mapper["headers_to_add"] = [_header("retry-after", str(error.retry_seconds))]
    if error.status == 431:  # Envoy may refuse before it has read the request, which then passes no filter.
        mapper["headers_to_add"] = [_header("access-control-allow-origin", "*")]
    return mapper


def _mapped(found: Json) -> Json:
    return {"filter": found, "body_format_override": {"text_format_source": {"inline_string": _ENVOYS_WORDS}}}


def _all(filters: list[Json]) -> Json:
    # Envoy refuses an and_filter of one.
    return filters[0] if len(filters) == 1 else {"and_filter": {"filters": filters}}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _format(dialect: ErrorDialect, error: EdgeError) -> Json:
    return {"json_format": dict(dialect.body(error, error.message or _ENVOYS_WORDS)), "content_type": _JSON}


def _status(operator: str, value: int) -> Json:
    # Envoy wants the name of a runtime key that could override the number.
    number = {"default_value": value, "runtime_key": "turnpike.unused"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": number}}}


def _under(prefix: str) -> Json:
    regex = f"{re.escape(prefix)}([/?].*)?"
    # The transcoder moves the path that the client sent into the second header.
    headers = (":path", "x-envoy-original-path")
    return {
        "or_filter": {
            "filters": [
                {"header_filter": {"header": {"name": name, "string_match": {"safe_regex": {"regex": regex}}}}}
                for name in headers
            ]
        }
    }
