"""The edge and the contract: what is routed, what is not, and that their numbers are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import pytest

from common.dialects.openai_chat import OpenAIChat
from common.serving.auth import CREDENTIAL_HEADERS
from common.serving.server import SERVER_OPTIONS
from common.settings import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_MESSAGE_BYTES, ServiceSettings
from deploy.envoy import policy
from deploy.envoy.contract import Binding, Service, read_contract
from deploy.envoy.render import CONTRACT, Places, render
from deploy.envoy.settings import EdgeSettings
from deploy.local.config import SERVICES
from services.chroma import servicer as chroma
from tests.architecture.source import services
from turnpike.edge.v1 import exposure_pb2

_UNROUTED: Final = ("sandbox", "portal")
"""Services without gRPC."""
_PLACES: Final = Places(
    listen=("127.0.0.1", 8080),
    admin=("127.0.0.1", 9901),
    services={service.name: ("127.0.0.1", 9) for service in SERVICES},
)


def _contract() -> tuple[Service, ...]:
    return read_contract(CONTRACT.read_bytes())


def _public() -> list[Service]:
    return [service for service in _contract() if service.is_public]


def _internal() -> list[Service]:
    return [service for service in _contract() if not service.is_public]


def _bindings() -> list[tuple[Service, Binding]]:
    return [(service, binding) for service in _public() for rpc in service.rpcs for binding in rpc.bindings]


def _rpcs(found: list[Service]) -> list[str]:
    return [f"/{service.full_name}/{rpc.name}" for service in found for rpc in service.rpcs]


def _sample(template: str) -> str:
    """Return a path that fits the template."""
    named = re.sub(r"\{[^=}]+=([^}]*)\}", r"\1", template)
    return re.sub(r"\{[^}]+\}|(?<!\*)\*(?!\*)", "some-id", named).replace("**", "a/b")


@cache
def _envoy() -> dict[str, Any]:
    return render(CONTRACT.read_bytes(), places=_PLACES, settings=EdgeSettings())


@cache
def _manager() -> dict[str, Any]:
    (listener,) = _envoy()["static_resources"]["listeners"]
    return dict(listener["filter_chains"][0]["filters"][0]["typed_config"])


def _transcoder() -> dict[str, Any]:
    (found,) = (each for each in _manager()["http_filters"] if each["name"].endswith("grpc_json_transcoder"))
    return dict(found["typed_config"])


def _routes() -> list[dict[str, Any]]:
    (host,) = _manager()["route_config"]["virtual_hosts"]
    return list(host["routes"])


def _fits(match: Mapping[str, Any], method: str, path: str, headers: Mapping[str, str]) -> bool:
    if "grpc" in match and headers.get("content-type") != "application/grpc":
        return False
    if "path" in match:
        fits = path == match["path"]
    elif "prefix" in match:
        fits = path.startswith(match["prefix"])
    else:
        fits = re.fullmatch(match["safe_regex"]["regex"], path) is not None
    known = {":method": method, ":path": path, **headers}
    return fits and all(_has(known, wanted) for wanted in match.get("headers", []))


def _has(headers: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    value = headers.get(wanted["name"])
    if "present_match" in wanted:
        found = value is not None
    elif value is None and not wanted.get("treat_missing_header_as_empty"):
        return False
    else:
        found = re.fullmatch(wanted["string_match"]["safe_regex"]["regex"], value or "") is not None
    return found is not wanted.get("invert_match", False)


def _route(method: str, path: str, **headers: str) -> dict[str, Any]:
    """Return the route that Envoy would take, the first that fits; empty for none."""
    sent = {"authorization": "Bearer x", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return next((route for route in _routes() if _fits(route["match"], method, path, sent)), {})


def _cluster(route: Mapping[str, Any]) -> str | None:
    found: str | None = route.get("route", {}).get("cluster")
    return found


@pytest.mark.parametrize(("service", "binding"), _bindings(), ids=lambda each: getattr(each, "name", None))
def test_every_http_path_of_the_contract_is_routed_to_its_service_and_transcoded(
    service: Service, binding: Binding
) -> None:
    assert service.full_name in _transcoder()["services"]
    assert _cluster(_route(binding.method, _sample(binding.path.text))) == service.cluster


@pytest.mark.parametrize("rpc", _rpcs([service for service in _public() if service.is_for_grpc_callers]))
def test_every_public_rpc_is_routed_for_native_clients(rpc: str) -> None:
    assert _cluster(_route("POST", rpc, content_type="application/grpc")) == rpc.split(".")[1]
    # Without gRPC's content type it is no call, and its headers are not checked as those of a call.
    assert _cluster(_route("POST", rpc, content_type="application/json")) is None


@pytest.mark.parametrize("rpc", _rpcs(_internal()))
def test_no_internal_rpc_is_reachable_through_the_edge(rpc: str) -> None:
    assert rpc.split("/")[1] not in _transcoder()["services"]
    for method in ("POST", "GET", "PUT", "OPTIONS"):
        assert _cluster(_route(method, rpc)) is None
        assert _cluster(_route(method, rpc, content_type="application/grpc")) is None


def test_every_service_says_who_may_call_it_and_internal_ones_have_no_http_path() -> None:
    for service in _contract():
        assert service.exposure != exposure_pb2.EXPOSURE_UNSPECIFIED, service.full_name
    assert not [rpc.name for service in _internal() for rpc in service.rpcs if rpc.bindings]


def test_there_is_an_internal_service_to_look_for() -> None:
    internal = {service.full_name for service in _internal()}
    assert {"turnpike.auth.v1.AuthService", "turnpike.usage.v1.UsageIngestService"} <= internal


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v1/chat/completions/more", "/admin", "/turnpike.auth.v1."])
def test_what_is_not_in_the_contract_has_no_route(path: str) -> None:
    for method in ("GET", "POST"):
        assert _route(method, path)["direct_response"] == {"status": 404}
        assert _cluster(_route(method, path, content_type="application/grpc")) is None


def test_the_edge_and_the_services_take_bodies_of_the_same_size() -> None:
    (host,) = _manager()["route_config"]["virtual_hosts"]
    assert _transcoder()["max_request_body_size"] == MAX_MESSAGE_BYTES
    assert host["request_body_buffer_limit"] == MAX_MESSAGE_BYTES
    # The services, which say it in their dialect, refuse first.
    assert MAX_BODY_BYTES < MAX_MESSAGE_BYTES


def test_every_cluster_that_is_routed_to_is_a_service_and_has_a_place() -> None:
    routed = {route["route"]["cluster"] for route in _routes() if "route" in route}
    assert routed == _limits().keys()
    assert routed - {policy.OPEN_CLUSTER} <= set(services()) - set(_UNROUTED)


def test_envoy_takes_more_calls_than_a_service_so_that_the_service_refuses() -> None:
    own = int(ServiceSettings.model_fields["max_concurrent_calls"].default)
    for name, limits in _limits().items():
        paying = {limits[kind] for kind in ("max_requests", "max_pending_requests", "max_connections")}
        assert len(paying) == 1
        assert (paying.pop() > own) is (name != policy.OPEN_CLUSTER)


def test_health_and_reflection_have_a_cluster_of_their_own_and_an_end() -> None:
    probes = int(ServiceSettings.model_fields["max_probes"].default)
    assert _limits()[policy.OPEN_CLUSTER]["max_requests"] <= probes
    for path in ("/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
        route = _route("POST", path, content_type="application/grpc")
        assert _cluster(route) == policy.OPEN_CLUSTER
        assert route["route"]["max_stream_duration"] == {"max_stream_duration": "60s"}


def test_every_header_that_may_hold_a_credential_reaches_a_service() -> None:
    assert {*CREDENTIAL_HEADERS, *chroma.CREDENTIALS, "x-usage-key"} == set(policy.CREDENTIAL_HEADERS)


def test_every_header_that_goes_on_to_a_provider_reaches_the_service() -> None:
    assert set(OpenAIChat.request_headers) <= set(policy.FORWARDED_HEADERS)


def test_services_take_the_headers_that_the_edge_lets_in() -> None:
    options = dict(SERVER_OPTIONS)
    assert options["grpc.max_metadata_size"] > MAX_HEADER_BYTES
    assert options["grpc.absolute_max_metadata_size"] > options["grpc.max_metadata_size"]
    assert _manager()["max_request_headers_kb"] * 1024 > MAX_HEADER_BYTES


def _limits() -> dict[str, dict[str, int]]:
    return {
        cluster["name"]: cluster["circuit_breakers"]["thresholds"][0]
        for cluster in _envoy()["static_resources"]["clusters"]
    }


def test_every_service_with_rpcs_is_in_the_contract() -> None:
    assert {service.cluster for service in _contract()} >= set(services()) - set(_UNROUTED)
