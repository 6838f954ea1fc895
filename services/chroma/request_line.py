"""Reads a request's path and query: every segment decoded once, nothing that could be read twice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from services.chroma.refusals import invalid, missing

Query = tuple[tuple[str, str], ...]

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MAX_PARAMETERS: Final = 100


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A path's segments and a query's parameters, decoded; no two parameters have the same name."""

    segments: tuple[str, ...]
    query: Query


def read_target(target: str) -> RequestLine:
    """Read what follows /v1/chroma in a request; raises Refusal.

    ``//`` and a slash at the end are unknown paths, as they are to Chroma. A decoded slash, a dot segment, a NUL or a
    parameter that is there twice is refused: whoever reads the path after the gateway must see the same.
    """
    path, _, query = target.partition("?")
    if path and not path.startswith("/"):
        raise missing("There is no such path.", code="unknown_url")
    raw = path.split("/")[1:]
    if "" in raw:
        raise missing("There is no such path.", code="unknown_url")
    return RequestLine(tuple(map(_segment, raw)), _parameters(query))


def query_string(query: Query) -> str:
    """Return the query as it goes upstream, encoded anew."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)


def _segment(raw: str) -> str:
    segment = _decoded(raw)
    if segment in (".", "..") or "/" in segment or "\0" in segment:
        raise invalid("A part of the path holds '/', '.', '..' or NUL.", code="invalid_path")
    return segment


def _parameters(query: str) -> Query:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    if len(pairs) > _MAX_PARAMETERS:
        raise invalid("The query has too many parameters.", code="invalid_query")
    parameters: dict[str, str] = {}
    for raw_name, _, value in pairs:
        name = _decoded(raw_name.replace("+", " "))
        if name in parameters:
            raise invalid(f"Failed to deserialize query string: duplicate field `{name}`", code="invalid_query")
        parameters[name] = _decoded(value.replace("+", " "))
    return tuple(parameters.items())


def _decoded(raw: str) -> str:
    try:
        if _BAD_ESCAPE.search(raw) is None:
            return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeError:
        pass
    raise invalid("Invalid URL: it is not percent-encoded UTF-8.", code="invalid_path")
