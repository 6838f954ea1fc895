"""Renders the routes, in the order in which Envoy tries them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.envoy import policy
from deploy.envoy.contract import Binding, Rpc, Service
from deploy.envoy.filters import (
    for_direct_response,
    for_grpc,
    for_open_service,
    in_dialect,
    refused_after_the_body,
    with_large_bodies,
)
from deploy.envoy.matching import VALID_PATH, header, header_present, regex
from deploy.envoy.paths import PathTemplate
from deploy.envoy.refusals import direct_response, preflight, refusal_of_other_origins, refusals
from deploy.envoy.settings import EdgeSettings

Json = dict[str, Any]
Paths = Mapping[PathTemplate, Mapping[str, tuple[str, Rpc]]]
"""What serves each method of each path: the cluster and the RPC."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_WITH_BODY = ("POST", "PUT", "PATCH")


def routes(contract: Sequence[Service], settings: EdgeSettings) -> list[Json]:
    """Return all routes; raises ValueError when two services claim the same method and path."""
    paths = _paths(contract)
    open_paths = [path for path in paths if _is_open(paths[path], settings)]
    foreign = [route for path in open_paths for route in refusal_of_other_origins(_path(path), settings)]
    # The transcoder takes some paths that no route has, such as one with a slash at its end.
    nothing = {"match": {"prefix": "/"}, **direct_response(404), **_with(for_direct_response())}
    services = [*_grpc_routes(contract, settings), *_http_routes(paths, settings)]
    return [*refusals(), *foreign, preflight(), *services, nothing]


def transcoded_services(contract: Sequence[Service]) -> list[str]:
    """Return the full names of the services that Envoy makes RPCs for, sorted."""
    return sorted(service.full_name for service in contract if service.is_transcoded)


def clusters_of(contract: Sequence[Service]) -> list[str]:
    """Return the services that routes name, sorted."""
    return sorted({service.cluster for service in contract if service.is_public} | {policy.OPEN_BACKEND})


def _grpc_routes(contract: Sequence[Service], settings: EdgeSettings) -> Iterator[Json]:
    """Return the routes of native gRPC callers; what else calls itself gRPC goes nowhere."""
    for service in contract:
        if service.is_for_grpc_callers:
            yield _grpc_route(f"/{service.full_name}/", _action(service.cluster))
    is_on = {"health": settings.health, "reflection": settings.reflection}
    for name, prefix in policy.OPEN_SERVICES.items():
        if is_on[name]:
            seconds = f"{policy.OPEN_SECONDS}s"
            limited = {"timeout": seconds, "max_stream_duration": {"max_stream_duration": seconds}}
            yield _grpc_route(prefix, {"cluster": policy.OPEN_CLUSTER, **limited})
    yield {
        "match": {"prefix": "/", "grpc": {}},
        **direct_response(404),
        "typed_per_filter_config": for_direct_response(),
    }


def _grpc_route(prefix: str, action: Json) -> Json:
    return {"match": {"prefix": prefix, "grpc": {}}, "route": action, "typed_per_filter_config": for_grpc()}


def _http_routes(paths: Paths, settings: EdgeSettings) -> Iterator[Json]:
    for path in sorted(paths, key=lambda path: (path.order, path.text)):
        services = paths[path]
        filters = for_open_service(settings) if _is_open(services, settings) else {}
        if any(rpc.is_typed for _, rpc in services.values()):
            invalid = header(":path", regex(VALID_PATH), negated=True)
            words = "The path and query must be UTF-8, percent-encoded."
            yield {
                "match": {**_path(path), "headers": [invalid]},
                **direct_response(400, words),
                **_with({**filters, **for_direct_response()}),
            }
        for cluster in sorted({cluster for cluster, _ in services.values()}):
            methods = [method for method in _METHODS if services.get(method, ("",))[0] == cluster]
            yield from _method_routes(path, methods, cluster=cluster, settings=settings, filters=filters)
        allowed = ", ".join(method for method in _METHODS if method in services)
        refused = direct_response(405, f"This path takes {allowed} only.", headers={"allow": allowed})
        yield {"match": _path(path), **refused, **_with({**filters, **for_direct_response()})}


def _is_open(services: Mapping[str, tuple[str, Rpc]], settings: EdgeSettings) -> bool:
    return any(cluster in settings.open for cluster, _ in services.values())


def _paths(contract: Sequence[Service]) -> Paths:
    found: dict[PathTemplate, dict[str, tuple[str, Rpc]]] = {}
    for service, rpc, binding in _bindings(contract):
        methods = found.setdefault(binding.path, {})
        cluster, _ = methods.setdefault(binding.method, (service.cluster, rpc))
        if cluster != service.cluster:
            raise ValueError(f"{binding.method} {binding.path.text} belongs to {cluster} and {service.cluster}")
    return found


def _bindings(contract: Sequence[Service]) -> Iterator[tuple[Service, Rpc, Binding]]:
    for service in contract:
        for rpc in service.rpcs if service.is_public else ():
            for binding in rpc.bindings:
                yield service, rpc, binding


def _method_routes(
    path: PathTemplate, methods: Sequence[str], *, cluster: str, settings: EdgeSettings, filters: Json
) -> Iterator[Json]:
    with_body = [method for method in methods if method in _WITH_BODY]
    if with_body and cluster not in settings.open:
        # Said before a body is taken in: nobody without a credential fills Envoy's memory.
        missing = [header_present(name, present=False) for name in policy.CREDENTIAL_HEADERS]
        match = {**_path(path), "headers": [_method(with_body), *missing]}
        yield {"match": match, **direct_response(401), **_with({**filters, **refused_after_the_body()})}
    checked = with_large_bodies(settings) if cluster not in settings.open else {}
    for kind, changes in ((["HEAD"], {}), (_WITH_BODY, checked), (("GET", "DELETE", "OPTIONS"), {})):
        if chosen := [method for method in methods if method in kind]:
            match = {**_path(path), "headers": [_method(chosen)]}
            told = in_dialect(path.text, head=chosen == ["HEAD"])
            yield {"match": match, "route": _action(cluster), **told, **_with({**filters, **changes})}


def _with(filters: Json) -> Json:
    return {"typed_per_filter_config": filters} if filters else {}


def _action(cluster: str) -> Json:
    timeout = policy.SERVICES.get(cluster, policy.ServicePolicy()).timeout_seconds
    return {"cluster": cluster, "timeout": f"{timeout}s"}


def _path(path: PathTemplate) -> Json:
    return {"path": path.text} if path.is_exact else regex(path.regex)


def _method(methods: Sequence[str]) -> Json:
    return header(":method", regex("|".join(methods)))
