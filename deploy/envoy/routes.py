"""Renders the routes: HTTP paths with their methods and 405s, and the services of native gRPC callers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.envoy.contract import Service
from deploy.envoy.paths import PathTemplate
from deploy.envoy.policy import OPEN_CLUSTER, ServicePolicy

Json = dict[str, Any]
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_OPEN_SERVICES = ("grpc.health.v1.Health/", "grpc.reflection.")


def routes(contract: Sequence[Service], policies: Mapping[str, ServicePolicy]) -> list[Json]:
    """Return all routes in the order in which Envoy tries them."""
    return [_preflight(), *_http_routes(contract, policies), *_grpc_routes(contract, policies)]


def transcoded_services(contract: Sequence[Service]) -> list[str]:
    """Return the full names of the services that Envoy makes RPCs for, sorted."""
    return sorted(service.full_name for service in contract if service.is_transcoded)


def clusters_of(contract: Sequence[Service]) -> list[str]:
    """Return the clusters that routes name, sorted."""
    return sorted({service.cluster for service in contract if service.is_public} | {OPEN_CLUSTER})


def _preflight() -> Json:
    """Return the route of preflights: the CORS filter answers them, but wants a route with a cluster to do so."""
    headers = [_method("OPTIONS"), {"name": "access-control-request-method", "present_match": True}]
    return {"match": {"prefix": "/", "headers": headers}, "route": {"cluster": OPEN_CLUSTER}}


def _http_routes(contract: Sequence[Service], policies: Mapping[str, ServicePolicy]) -> Iterator[Json]:
    found: dict[PathTemplate, dict[str, str]] = {}
    for service in contract:
        for binding in (binding for rpc in service.rpcs for binding in rpc.bindings if service.is_public):
            cluster = found.setdefault(binding.path, {}).setdefault(binding.method, service.cluster)
            if cluster != service.cluster:
                raise ValueError(f"{binding.method} {binding.path.text} belongs to {cluster} and {service.cluster}")
    for path in sorted(found, key=lambda path: (path.order, path.text)):
        clusters = found[path]
        for cluster in sorted(set(clusters.values())):
            methods = [method for method in _METHODS if clusters.get(method) == cluster]
            match = {**_path(path), "headers": [_method("|".join(methods))]}
            yield {"match": match, "route": _action(cluster, policies)}
        yield _method_not_allowed(path, [method for method in _METHODS if method in clusters])


def _method_not_allowed(path: PathTemplate, methods: Sequence[str]) -> Json:
    allowed = ", ".join(methods)
    return {
        "match": _path(path),
        "direct_response": {"status": 405, "body": {"inline_string": f"This path takes {allowed} only."}},
        "response_headers_to_add": [
            {"header": {"key": "allow", "value": allowed}},
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            },
        ],
        # The transcoder would answer 404 before the route could.
        "typed_per_filter_config": {
            "envoy.filters.http.grpc_json_transcoder": {
                "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                "disabled": True,
            }
        },
    }


def _grpc_routes(contract: Sequence[Service], policies: Mapping[str, ServicePolicy]) -> Iterator[Json]:
    for service in contract:
        if service.is_for_grpc_callers:
            yield {"match": {"prefix": f"/{service.full_name}/"}, "route": _action(service.cluster, policies)}
    for prefix in _OPEN_SERVICES:
        yield {"match": {"prefix": f"/{prefix}"}, "route": _action(OPEN_CLUSTER, policies)}


def _action(cluster: str, policies: Mapping[str, ServicePolicy]) -> Json:
    policy = policies.get(cluster, ServicePolicy())
    return {"cluster": cluster, "timeout": f"{policy.timeout_seconds}s"}


def _path(path: PathTemplate) -> Json:
    return {"path": path.text} if path.is_exact else {"safe_regex": {"regex": path.regex}}


def _method(regex: str) -> Json:
    return {"name": ":method", "string_match": {"safe_regex": {"regex": regex}}}
