"""Renders Envoy's local replies: one mapper for each dialect and status."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from deploy.envoy.dialects import ERRORS, OTHER_CLIENT_ERROR, OTHER_SERVER_ERROR, EdgeError, ErrorDialect

Json = dict[str, Any]


def local_reply_config(dialects: Mapping[str, ErrorDialect], *, default: ErrorDialect) -> Json:
    """Return the LocalReplyConfig: ``dialects`` says which one holds under a path, ``default`` elsewhere."""
    mappers = [mapper for prefix, dialect in dialects.items() for mapper in _mappers(dialect, under=prefix)]
    mappers += _mappers(default)
    return {"mappers": mappers, "body_format": _format(default, OTHER_SERVER_ERROR)}


def _mappers(dialect: ErrorDialect, *, under: str | None = None) -> Iterator[Json]:
    on_path = [_under(under)] if under else []
    for error in ERRORS:
        yield _mapper(dialect, error, [*on_path, _status("EQ", error.status)])
    yield _mapper(dialect, OTHER_SERVER_ERROR, [*on_path, _status("GE", OTHER_SERVER_ERROR.status)])
    yield _mapper(dialect, OTHER_CLIENT_ERROR, [*on_path, _status("LE", OTHER_CLIENT_ERROR.status)])


def _mapper(dialect: ErrorDialect, error: EdgeError, filters: list[Json]) -> Json:
    # Envoy refuses an and_filter of one.
    found = filters[0] if len(filters) == 1 else {"and_filter": {"filters": filters}}
    return {"filter": found, "body_format_override": _format(dialect, error)}


def _format(dialect: ErrorDialect, error: EdgeError) -> Json:
    return {"json_format": dict(dialect.body(error))}


def _status(operator: str, value: int) -> Json:
    # Envoy wants the name of a runtime key that could override the number.
    return {"status_code_filter": {"comparison": {"op": operator, "value": _number(value)}}}


def _number(value: int) -> Json:
    return {"default_value": value, "runtime_key": "turnpike.unused"}


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
