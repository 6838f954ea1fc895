"""Renders the HTTP filters before the transcoder, and what a route turns on or off of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from deploy.envoy import policy
from deploy.envoy.matching import (
    VALID_ID,
    above,
    all_but,
    any_of,
    header_present,
    negated,
    request_header,
    response_header,
    skipped_unless,
)
from deploy.envoy.replies import lua_table
from deploy.envoy.settings import EdgeSettings

Json = dict[str, Any]
_HERE: Final = Path(__file__).parent
HEADER_BYTES: Final = "x-turnpike-header-bytes"
"""A header that Envoy sets before it routes: the size of all headers."""
_FORWARDED, _CORS, _ANSWERS, _GRPC = "turnpike.forwarded", "turnpike.cors", "turnpike.answers", "turnpike.grpc"
_REFUSED, _LARGE = "turnpike.refused", "turnpike.large"
_TRANSCODER: Final = "envoy.filters.http.grpc_json_transcoder"
_OF_GRPC: Final = ("grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding")
_OF_SERVICES: Final = ("x-http-status", "x-error-body")
_OF_ENVOY: Final = ("x-envoy-upstream-healthchecked-cluster",)
_EXPOSED: Final = "x-request-id, retry-after"


def filters(settings: EdgeSettings) -> list[Json]:
    """Return the filters; an answer passes them from the last to the first."""
    return [
        _cors(settings),
        _headers(settings),
        _filter(_REFUSED, _after_the_body(), disabled=True),
        *([_large(settings.service_key.get_secret_value())] if settings.service_key else []),
        _request_ids(),
        _filter(_GRPC, _lua("grpc.lua"), disabled=True),
        _streams(),
        _answers(),
    ]


def measured() -> Json:
    """Return the early mutation that notes how large a request's headers are."""
    name = "envoy.http.early_header_mutation.header_mutation"
    config = {
        "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        "mutations": [{"append": _set(HEADER_BYTES, "%REQUEST_HEADERS_BYTES%")}],
    }
    return {"name": name, "typed_config": config}


def for_grpc() -> Json:
    """Return what a route of native gRPC callers changes: their metadata are theirs, and their answers, too."""
    return {**_disabled(_FORWARDED, _ANSWERS, _TRANSCODER), _GRPC: _filter_config({"config": {}})}


def for_open_service(settings: EdgeSettings) -> Json:
    """Return what a route changes that answers without a credential: any web page could read it."""
    return {} if settings.origins else _disabled(_CORS)


def for_direct_response() -> Json:
    """Return what a route changes that Envoy answers itself.

    The transcoder would answer 404 before it, and a request that a filter changes is routed once more.
    """
    return _disabled(_FORWARDED, _ANSWERS, _TRANSCODER)


def refused_after_the_body() -> Json:
    """Return what a route changes that refuses everybody: the body is read, and forgotten, before the answer.

    An answer before the end of a body would close the connection, and the caller, still sending, would not see it.
    """
    return {_REFUSED: _filter_config({"config": {}})}


def with_large_bodies(settings: EdgeSettings) -> Json:
    """Return what a route changes that takes bodies and wants a credential: it is checked before a large body."""
    return {_LARGE: _filter_config({"config": {}})} if settings.service_key else {}


def in_dialect(path: str, *, head: bool) -> Json:
    """Return what answers.lua must know of a route: its dialect, and whether an answer may have a body."""
    under = (found for prefix, found in policy.DIALECTS.items() if path == prefix or path.startswith(f"{prefix}/"))
    dialect = next(under, policy.DEFAULT_DIALECT)
    return {"metadata": {"filter_metadata": {_ANSWERS: {"dialect": dialect.name, **({"head": True} if head else {})}}}}


def preflight_headers() -> dict[str, str]:
    """Return the headers that answer a preflight; the CORS filter adds who may ask."""
    allowed = ", ".join(("authorization", "content-type", *policy.CREDENTIAL_HEADERS[1:], "x-request-id"))
    return {
        "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
        # The star does not stand for authorization.
        "access-control-allow-headers": f"*, {allowed}",
        "access-control-max-age": "86400",
    }


def _cors(settings: EdgeSettings) -> Json:
    if not settings.origins:
        return _filter(_CORS, _mutation(answer=[_added("access-control-allow-origin", "*"), _exposed()]))
    named = [_added("access-control-allow-origin", "%REQ(origin)%"), _added("vary", "origin"), _exposed()]
    is_named = request_header("origin", "|".join(map(re.escape, settings.origins)))
    return skipped_unless(_CORS, _mutation(answer=named), predicate=is_named)


def _after_the_body() -> Json:
    # Envoy's filter for health checks keeps nothing of a request, waits for its end, and answers 200; the local replies
    # make it 401. No other filter reads a body without keeping it.
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "headers": [header_present(":method")],
    }


def _large(service_key: str) -> Json:
    names = ", ".join(f'"{name}"' for name in policy.CREDENTIAL_HEADERS if name != policy.USAGE_KEY_HEADER)
    before = f"local CREDENTIALS = {{ {names} }}\nlocal KEY = {json.dumps(service_key)}\n"
    is_large = request_header("content-length", above(policy.LARGE_BODY_BYTES))
    has_length = request_header("content-length", "[0-9]+")
    config = _lua("large.lua", before=before)
    return {**skipped_unless(_LARGE, config, predicate=any_of([is_large, negated(has_length)])), "disabled": True}


def _headers(settings: EdgeSettings) -> Json:
    # The answer repeats a named origin, which is asked for at the end.
    origin = ("origin",) if settings.origins else ()
    names = (*policy.FORWARDED_HEADERS, *policy.EDGE_HEADERS, *origin)
    forwarded = {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": all_but(names)}}}}
    removed = [{"remove": name} for name in (*_OF_GRPC, *_OF_SERVICES, *_OF_ENVOY)]
    return _filter(_FORWARDED, _mutation(request=[forwarded], answer=removed))


def _request_ids() -> Json:
    fresh = _mutation(request=[_added("x-request-id", "%UNIQUE_ID%")])
    return skipped_unless("turnpike.request_id", fresh, predicate=negated(request_header("x-request-id", VALID_ID)))


def _streams() -> Json:
    # nginx and other proxies would keep events back.
    headers = [_added("cache-control", "no-cache"), _added("x-accel-buffering", "no")]
    is_stream = response_header("content-type", "text/event-stream.*")
    return skipped_unless("turnpike.streams", _mutation(answer=headers), predicate=is_stream)


def _answers() -> Json:
    table = lua_table(
        {dialect.name: dialect for dialect in (policy.DEFAULT_DIALECT, *policy.DIALECTS.values())}.values()
    )
    special = any_of([response_header("x-http-status", "[0-9]+"), response_header("grpc-status", "[1-9][0-9]*")])
    return skipped_unless(_ANSWERS, _lua("answers.lua", before=table), predicate=special)


def _filter(name: str, typed_config: Json, *, disabled: bool = False) -> Json:
    return {"name": name, "typed_config": typed_config, **({"disabled": True} if disabled else {})}


def _lua(file: str, *, before: str = "") -> Json:
    code = before + (_HERE / file).read_text()
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": code},
    }


def _mutation(*, request: list[Json] | None = None, answer: list[Json] | None = None) -> Json:
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"request_mutations": request or [], "response_mutations": answer or []},
    }


def _added(name: str, value: str) -> Json:
    return {"append": _set(name, value)}


def _exposed() -> Json:
    return _added("access-control-expose-headers", _EXPOSED)


def _set(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _disabled(*names: str) -> Json:
    return {name: _filter_config({"disabled": True}) for name in names}


def _filter_config(config: Json) -> Json:
    return {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", **config}
