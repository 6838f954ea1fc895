"""The edge and the contract: what is routed, what is not, and that their numbers are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pytest
import yaml
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from common.settings import MAX_BODY_BYTES, MAX_MESSAGE_BYTES
from tests.architecture.source import REPOSITORY, services

_UNROUTED: Final = ("sandbox", "portal")
"""Services without gRPC."""


@dataclass(frozen=True)
class Rpc:
    """An RPC of the contract, with the requests that Envoy makes it of."""

    service: str
    name: str
    http: tuple[tuple[str, str], ...]
    is_internal: bool

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"

    @property
    def cluster(self) -> str:
        """The service that serves it, which is the package's name."""
        return self.service.split(".")[1]


def _sample(template: str) -> str:
    """Return a path that fits the template."""
    named = re.sub(r"\{[^=}]+=([^}]*)\}", r"\1", template)
    return re.sub(r"\{[^}]+\}|(?<!\*)\*(?!\*)", "some-id", named).replace("**", "a/b")


def _bindings(rule: Any) -> Iterator[tuple[str, str]]:
    kind = rule.WhichOneof("pattern")
    if kind == "custom":
        yield rule.custom.kind, rule.custom.path
    elif kind:
        yield kind.upper(), getattr(rule, kind)
    for more in rule.additional_bindings:
        yield from _bindings(more)


def _rpcs() -> list[Rpc]:
    contract = FileDescriptorSet.FromString((REPOSITORY / "gen" / "turnpike.pb").read_bytes())
    found = []
    for file in contract.file:
        if not file.package.startswith("turnpike."):
            continue
        comment = re.search(r"^// (Public|Internal):", (REPOSITORY / "proto" / file.name).read_text(), re.MULTILINE)
        for service in file.service:
            assert comment, f"{file.name} does not say whether it is public or internal"
            for method in service.method:
                http = tuple(_bindings(method.options.Extensions[annotations_pb2.http]))
                full_name = f"{file.package}.{service.name}"
                found.append(Rpc(full_name, method.name, http, comment[1] == "Internal"))
    return found


@cache
def _envoy() -> dict[str, Any]:
    return dict(yaml.safe_load((REPOSITORY / "deploy/envoy/envoy.yaml").read_text()))


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


@pytest.mark.parametrize("rpc", [rpc for rpc in _rpcs() if rpc.http], ids=str)
def test_every_http_path_of_the_contract_is_routed_to_its_service_and_transcoded(rpc: Rpc) -> None:
    assert rpc.service in _transcoder()["services"]
    for method, template in rpc.http:
        route = _route(method, _sample(template))
        assert route is not None, f"{method} {template} has no route"
        assert route.get("route", {}).get("cluster") == rpc.cluster, f"{method} {template}"


def _is_for_native_clients(rpc: Rpc) -> bool:
    return not rpc.is_internal and not rpc.service.endswith("HttpService")


@pytest.mark.parametrize("rpc", [rpc for rpc in _rpcs() if _is_for_native_clients(rpc)], ids=str)
def test_every_public_rpc_is_routed_for_native_clients(rpc: Rpc) -> None:
    route = _route("POST", f"/{rpc.service}/{rpc.name}")
    assert route is not None
    assert route["route"]["cluster"] == rpc.cluster


@pytest.mark.parametrize("rpc", [rpc for rpc in _rpcs() if rpc.is_internal], ids=str)
def test_no_internal_rpc_is_reachable_through_the_edge(rpc: Rpc) -> None:
    assert rpc.http == ()
    assert rpc.service not in _transcoder()["services"]
    for method in ("POST", "GET", "PUT", "OPTIONS"):
        assert _route(method, f"/{rpc.service}/{rpc.name}") is None


def test_there_is_an_internal_rpc_to_look_for() -> None:
    internal = {rpc.service for rpc in _rpcs() if rpc.is_internal}
    assert {"turnpike.auth.v1.AuthService", "turnpike.usage.v1.UsageIngestService"} <= internal


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v1/chat/completions/more", "/admin", "/turnpike.auth.v1."])
def test_what_is_not_in_the_contract_has_no_route(path: str) -> None:
    for method in ("GET", "POST"):
        assert _route(method, path) is None


def test_every_transcoded_service_is_in_the_contract() -> None:
    assert set(_transcoder()["services"]) <= {rpc.service for rpc in _rpcs() if rpc.http}


def test_the_edge_and_the_services_take_bodies_of_the_same_size() -> None:
    (host,) = _manager()["route_config"]["virtual_hosts"]
    assert _transcoder()["max_request_body_size"] == MAX_MESSAGE_BYTES
    assert host["request_body_buffer_limit"] == MAX_MESSAGE_BYTES
    assert MAX_BODY_BYTES < MAX_MESSAGE_BYTES
    assert f"larger than {MAX_BODY_BYTES // 2**20} MiB" in (REPOSITORY / "deploy/envoy/envoy.yaml").read_text()


def test_every_cluster_that_is_routed_to_is_a_service_and_has_a_place() -> None:
    routed = {route["route"]["cluster"] for route in _routes() if "route" in route}
    local = yaml.safe_load((REPOSITORY / "deploy/envoy/clusters.local.yaml").read_text())
    placed = {cluster["name"] for cluster in local["resources"]}
    assert routed <= set(services()) - set(_UNROUTED)
    assert routed <= placed


def test_every_service_with_rpcs_is_in_the_contract() -> None:
    assert {rpc.cluster for rpc in _rpcs()} >= set(services()) - set(_UNROUTED)
