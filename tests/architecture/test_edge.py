"""The edge and the contract: what is routed, what is not, and that their numbers are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import pytest

from common.settings import MAX_BODY_BYTES, MAX_MESSAGE_BYTES
from deploy.envoy.contract import Binding, Service, read_contract
from deploy.envoy.render import CONTRACT, Places, render
from deploy.local.config import SERVICES
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
    return render(CONTRACT.read_bytes(), places=_PLACES)


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


def _fits(match: Mapping[str, Any], method: str, path: str) -> bool:
    fits: bool
    if "path" in match:
        fits = path == match["path"]
    elif "prefix" in match:
        fits = path.startswith(match["prefix"])
    elif "path_separated_prefix" in match:
        fits = path == match["path_separated_prefix"] or path.startswith(match["path_separated_prefix"] + "/")
    else:
        fits = re.fullmatch(match["safe_regex"]["regex"], path) is not None
    for header in match.get("headers", []):
        if header["name"] != ":method":
            return False  # Asks for a header that these requests do not have.
        wanted = header["string_match"]
        exact = wanted.get("exact")
        fits = fits and (method == exact if exact else re.fullmatch(wanted["safe_regex"]["regex"], method) is not None)
    return fits


def _route(method: str, path: str) -> dict[str, Any] | None:
    """Return the route that Envoy would take: the first that fits."""
    return next((route for route in _routes() if _fits(route["match"], method, path)), None)


@pytest.mark.parametrize(("service", "binding"), _bindings(), ids=lambda each: getattr(each, "name", None))
def test_every_http_path_of_the_contract_is_routed_to_its_service_and_transcoded(
    service: Service, binding: Binding
) -> None:
    assert service.full_name in _transcoder()["services"]
    route = _route(binding.method, _sample(binding.path.text))
    assert route is not None
    assert route.get("route", {}).get("cluster") == service.cluster


@pytest.mark.parametrize("rpc", _rpcs([service for service in _public() if service.is_for_grpc_callers]))
def test_every_public_rpc_is_routed_for_native_clients(rpc: str) -> None:
    route = _route("POST", rpc)
    assert route is not None
    assert route["route"]["cluster"] == rpc.split(".")[1]


@pytest.mark.parametrize("rpc", _rpcs(_internal()))
def test_no_internal_rpc_is_reachable_through_the_edge(rpc: str) -> None:
    assert rpc.split("/")[1] not in _transcoder()["services"]
    for method in ("POST", "GET", "PUT", "OPTIONS"):
        assert _route(method, rpc) is None


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
        assert _route(method, path) is None


def test_the_edge_and_the_services_take_bodies_of_the_same_size() -> None:
    (host,) = _manager()["route_config"]["virtual_hosts"]
    assert _transcoder()["max_request_body_size"] == MAX_MESSAGE_BYTES
    assert host["request_body_buffer_limit"] == MAX_MESSAGE_BYTES
    # The services, which say it in their dialect, refuse first.
    assert MAX_BODY_BYTES < MAX_MESSAGE_BYTES


def test_every_cluster_that_is_routed_to_is_a_service_and_has_a_place() -> None:
    routed = {route["route"]["cluster"] for route in _routes() if "route" in route}
    placed = {cluster["name"] for cluster in _envoy()["static_resources"]["clusters"]}
    assert routed <= set(services()) - set(_UNROUTED)
    assert routed == placed


def test_every_service_with_rpcs_is_in_the_contract() -> None:
    assert {service.cluster for service in _contract()} >= set(services()) - set(_UNROUTED)
