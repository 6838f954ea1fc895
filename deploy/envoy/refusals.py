"""Renders the routes that refuse a request before it costs anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from common.settings import MAX_HEADER_BYTES
from deploy.envoy import policy
from deploy.envoy.filters import HEADER_BYTES, for_direct_response, preflight_headers
from deploy.envoy.matching import PRINTABLE, above, header, header_present, regex
from deploy.envoy.settings import EdgeSettings

Json = dict[str, Any]
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_TIMEOUT: Final = "[0-9]{1,8}[HMSmun]"
"""The grammar of grpc-timeout: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md"""


def refusals() -> Iterator[Json]:
    """Return the refusals of every path."""
    yield _refused([header(HEADER_BYTES, regex(above(MAX_HEADER_BYTES)))], 431)
    yield _refused([header(":path", regex("[!-~]*"), negated=True)], 400, "The path must be ASCII, percent-encoded.")
    for name in policy.FORWARDED_HEADERS:
        words = f"The header {name} holds something else than printable ASCII."
        yield _refused([header(name, regex(PRINTABLE), negated=True)], 400, words)
    # gRPC keeps a header that it could not read, and then refuses other callers' that have its name.
    deadline = header("grpc-timeout", regex(_TIMEOUT), negated=True)
    yield {
        "match": {"prefix": "/", "grpc": {}, "headers": [header_present("grpc-timeout"), deadline]},
        **direct_response(400, "The header grpc-timeout is malformed."),
        "typed_per_filter_config": for_direct_response(),
    }


def preflight() -> Json:
    """Return the answer to browsers that ask what they may send."""
    is_preflight = [header(":method", regex("OPTIONS")), header_present("access-control-request-method")]
    return {
        "match": {"prefix": "/", "headers": is_preflight},
        **direct_response(200, headers=preflight_headers()),
        "typed_per_filter_config": for_direct_response(),
    }


def refusal_of_other_origins(path: Json, settings: EdgeSettings) -> Iterator[Json]:
    """Return the refusal of web pages at a service that answers without a credential.

    Browsers name the page's origin. Without this, any page that a developer opens could read or spend what is theirs.
    """
    named = (
        [header("origin", regex("|".join(map(re.escape, settings.origins))), negated=True)] if settings.origins else []
    )
    foreign = header("sec-fetch-site", regex("same-origin"), negated=True)
    words = (
        "This route needs no credential, so web pages may use it only when TURNPIKE_CORS_ORIGINS names their origin."
    )
    yield {
        "match": {
            **path,
            "headers": [header_present("origin"), *named, {**foreign, "treat_missing_header_as_empty": True}],
        },
        **direct_response(403, words),
        "typed_per_filter_config": for_direct_response(),
    }


def direct_response(status: int, words: str = "", *, headers: Mapping[str, str] = _NO_HEADERS) -> Json:
    """Return the part of a route that answers with a status; the local replies write the body around the words."""
    response: Json = {"status": status, **({"body": {"inline_string": words}} if words else {})}
    added = [{"header": {"key": name, "value": value}} for name, value in headers.items()]
    return {"direct_response": response, **({"response_headers_to_add": added} if added else {})}


def _refused(headers: list[Json], status: int, words: str = "") -> Json:
    return {
        "match": {"prefix": "/", "headers": headers},
        **direct_response(status, words),
        "typed_per_filter_config": for_direct_response(),
    }
