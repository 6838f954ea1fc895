"""Reads a request's path and query: every segment decoded once, nothing that could be read twice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from services.chroma.refusals import invalid, missing

Query = tuple[tuple[str, str], ...]

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PARAMETERS_AT_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A path's segments and a query's parameters, decoded."""

    segments: tuple[str, ...]
    query: Query


def read_target(target: str) -> RequestLine:
    """Read what follows /v1/chroma in a request; raises Refused.

    ``//`` and a slash at the end are unknown paths, as they are to Chroma. A decoded slash, a dot segment or a NUL is
    refused: whoever reads the path after the gateway must see the same segments.
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
    if len(pairs) > _PARAMETERS_AT_MOST:
        raise invalid("The query has too many parameters.", code="invalid_query")
    return tuple((_decoded(name.replace("+", " ")), _decoded(value.replace("+", " "))) for name, _, value in pairs)


def _decoded(raw: str) -> str:
    try:
        if _BAD_ESCAPE.search(raw) is None:
            return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeError:
        pass
    raise invalid("Invalid URL: it is not percent-encoded UTF-8.", code="invalid_path")
