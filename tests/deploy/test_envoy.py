"""Envoy's configuration is rendered from the contract: a path that is added to a proto is routed."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deploy.envoy.matching import VALID_PATH, above, all_but
from deploy.envoy.paths import PathTemplate
from deploy.envoy.render import CONTRACT, Places, render
from deploy.envoy.settings import EdgeSettings
from deploy.envoy.template import fill
from deploy.local.config import REPOSITORY
from deploy.local.envoy import write_envoy
from deploy.local.preflight import envoy_binary

BACKENDS = {"auth": 18181, "chat": 18182, "chroma": 18183, "ocr": 18184, "usage": 18185}
PLACES = Places(
    listen=("0.0.0.0", 8080),  # noqa: S104 - as in a container; nothing listens here
    admin=("127.0.0.1", 9901),
    services={"chat": ("chat.example", 8082), "weather": ("127.0.0.1", 8090)},
)
WEATHER = """
syntax = "proto3";
package turnpike.weather.v1;
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
import "turnpike/edge/v1/exposure.proto";
service WeatherService {
  option (turnpike.edge.v1.exposure) = EXPOSURE_PUBLIC;
  rpc GetForecast(Place) returns (Forecast) {
    option (google.api.http) = {
      get: "/v1/weather/{city}/forecast"
      additional_bindings: {delete: "/v1/weather/{city}/forecast"}
    };
  }
  rpc ListCities(Country) returns (Forecast) { option (google.api.http) = {get: "/v1/weather/cities"}; }
}
service WeatherHttpService {
  option (turnpike.edge.v1.exposure) = EXPOSURE_PUBLIC;
  rpc Report(google.api.HttpBody) returns (google.api.HttpBody) {
    option (google.api.http) = {post: "/v1/weather/**" body: "*"};
  }
}
service WeatherIngestService {
  rpc Store(Place) returns (Forecast) { option (google.api.http) = {get: "/v1/ingest"}; }
}
message Place { string city = 1; }
message Country { string name = 1; }
message Forecast { string text = 1; }
"""


def compiled(directory: Path, text: str) -> bytes:
    """Return the descriptors of a proto, as `make proto` would write them."""
    (directory / "weather.proto").write_text(text)
    includes = [directory, REPOSITORY / "proto", Path(sysconfig.get_path("purelib"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes)]
    command += ["--include_imports", f"--descriptor_set_out={directory / 'set.pb'}", "weather.proto"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return (directory / "set.pb").read_bytes()


def manager(config: dict[str, Any]) -> dict[str, Any]:
    (listener,) = config["static_resources"]["listeners"]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def routes(config: dict[str, Any]) -> list[dict[str, Any]]:
    (host,) = manager(config)["route_config"]["virtual_hosts"]
    found: list[dict[str, Any]] = host["routes"]
    return found


def matches(config: dict[str, Any], *, cluster: str) -> list[Any]:
    return [route["match"] for route in routes(config) if route.get("route", {}).get("cluster") == cluster]


def refused(config: dict[str, Any], status: int) -> dict[str, Any]:
    """Return the routes that Envoy answers with the status, by their path."""
    found = [route for route in routes(config) if route.get("direct_response", {}).get("status") == status]
    return {route["match"].get("path") or route["match"].get("safe_regex", {}).get("regex"): route for route in found}


def method(regex: str) -> dict[str, Any]:
    return {"name": ":method", "string_match": {"safe_regex": {"regex": regex}}}


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    descriptors = compiled(tmp_path_factory.mktemp("weather"), WEATHER)
    return render(descriptors, places=PLACES, settings=EdgeSettings())


def test_a_path_added_to_a_proto_is_routed_the_most_specific_first(weather: dict[str, Any]) -> None:
    assert matches(weather, cluster="weather") == [
        {"prefix": "/turnpike.weather.v1.WeatherService/", "grpc": {}},
        {"path": "/v1/weather/cities", "headers": [method("GET")]},
        {"safe_regex": {"regex": "/v1/weather/[^/]+/forecast"}, "headers": [method("GET|DELETE")]},
        {"safe_regex": {"regex": "/v1/weather(/.*)?"}, "headers": [method("POST")]},
    ]


def test_its_other_methods_are_405_with_allow(weather: dict[str, Any]) -> None:
    allowed = {
        path: route["response_headers_to_add"][0]["header"]["value"] for path, route in refused(weather, 405).items()
    }
    assert allowed == {
        "/v1/weather/cities": "GET",
        "/v1/weather/[^/]+/forecast": "GET, DELETE",
        "/v1/weather(/.*)?": "POST",
    }


def test_nobody_without_a_credential_has_a_body_taken_in(tmp_path: Path) -> None:
    descriptors = compiled(tmp_path, WEATHER)
    closed = render(descriptors, places=PLACES, settings=EdgeSettings(open_services=""))
    (route,) = refused(closed, 401).values()
    missing = {header["name"] for header in route["match"]["headers"][1:]}
    assert missing == {"authorization", "x-api-key", "api-key", "x-chroma-token", "x-usage-key"}
    assert refused(render(descriptors, places=PLACES, settings=EdgeSettings(open_services="weather")), 401) == {}


def test_a_query_parameter_cannot_replace_a_field_of_the_path(weather: dict[str, Any]) -> None:
    (transcoder,) = (each for each in manager(weather)["http_filters"] if each["name"].endswith("transcoder"))
    assert transcoder["typed_config"]["ignored_query_parameters"] == ["city"]


def test_a_field_of_a_path_is_no_query_parameter_elsewhere(tmp_path: Path) -> None:
    descriptors = compiled(tmp_path, WEATHER.replace("string name = 1", "string city = 1"))
    with pytest.raises(ValueError, match=r"WeatherService.ListCities takes city from the query"):
        render(descriptors, places=PLACES, settings=EdgeSettings())


@pytest.mark.parametrize(
    ("setting", "prefix"), [("health", "/grpc.health.v1.Health/"), ("reflection", "/grpc.reflection.")]
)
def test_health_and_reflection_can_be_turned_off(setting: str, prefix: str, tmp_path: Path) -> None:
    off = EdgeSettings.model_validate({setting: False})
    matches_of_open = matches(render(compiled(tmp_path, WEATHER), places=PLACES, settings=off), cluster="open")
    assert len(matches_of_open) == 1
    assert {"prefix": prefix, "grpc": {}} not in matches_of_open


@pytest.mark.parametrize("value", ["app.example.com", "https://app.example.com/", "https://a.example *"])
def test_an_origin_of_another_form_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        EdgeSettings(cors_origins=value)


@pytest.mark.parametrize(
    ("name", "found"), [("authorization", None), ("x-request-id", None), ("grpc-timeout", "grpc-timeout"), ("te", "te")]
)
def test_headers_outside_of_a_list_are_matched(name: str, found: str | None) -> None:
    pattern = all_but(("authorization", "x-request-id", "x-api-key"))
    match = re.fullmatch(pattern, name)
    assert (match and match[0]) == found
    for other in (name[:-1], f"{name}x", f"x{name}", "a", "x-"):
        assert re.fullmatch(pattern, other), other
    assert re.fullmatch(pattern, ":path") is None


@given(st.integers(0, 10**7), st.integers(1, 10**6))
def test_numbers_above_a_limit_are_matched(number: int, limit: int) -> None:
    assert (re.fullmatch(above(limit), str(number)) is not None) is (number > limit)


@given(st.binary(max_size=12))
def test_a_path_is_valid_when_its_bytes_are_utf_8(data: bytes) -> None:
    path = "/v1/things/" + quote(data, safe="")
    try:
        data.decode()
        is_utf8 = True
    except UnicodeDecodeError:
        is_utf8 = False
    assert (re.fullmatch(VALID_PATH, path) is not None) is is_utf8


def test_a_service_that_does_not_say_public_is_not_routed(weather: dict[str, Any]) -> None:
    assert "Ingest" not in json.dumps(routes(weather))
    assert "/v1/ingest" not in json.dumps(routes(weather))
    (transcoder,) = (each for each in manager(weather)["http_filters"] if each["name"].endswith("transcoder"))
    assert transcoder["typed_config"]["services"] == [
        "turnpike.weather.v1.WeatherHttpService",
        "turnpike.weather.v1.WeatherService",
    ]


def test_a_service_lies_where_it_is_said_to(weather: dict[str, Any]) -> None:
    clusters = {cluster["name"]: cluster for cluster in weather["static_resources"]["clusters"]}
    assert clusters["weather"]["type"] == "STATIC"
    assert clusters["chat"]["type"] == "STRICT_DNS"
    (endpoint,) = clusters["chat"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "chat.example", "port_value": 8082}


def test_a_service_without_an_address_is_named() -> None:
    with pytest.raises(ValueError, match="auth has no address"):
        render(CONTRACT.read_bytes(), places=PLACES, settings=EdgeSettings())


def test_a_path_of_two_services_is_refused(tmp_path: Path) -> None:
    descriptors = compiled(tmp_path, WEATHER.replace("/v1/weather/cities", "/v1/usage"))
    files = FileDescriptorSet.FromString(descriptors)
    files.MergeFromString(CONTRACT.read_bytes())
    with pytest.raises(ValueError, match="GET /v1/usage belongs to weather and usage"):
        render(files.SerializeToString(), places=PLACES, settings=EdgeSettings())


@pytest.mark.parametrize(
    ("template", "regex"),
    [
        ("/v1/usage", "/v1/usage"),
        ("/v1/a.b/{x}", r"/v1/a\.b/[^/]+"),
        ("/v1/{x}:cancel", "/v1/[^/]+:cancel"),
        ("/v1/models/{id=**}", "/v1/models(/.*)?"),
        ("/v1/{name=accounts/*}/ai", "/v1/accounts/[^/]+/ai"),
    ],
)
def test_a_template_is_a_regular_expression(template: str, regex: str) -> None:
    assert PathTemplate(template).regex == regex


def test_a_placeholder_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill({"a": ["${unknown}"]}, {})


def test_a_laptop_listens_to_itself_only(tmp_path: Path) -> None:
    path = write_envoy(tmp_path, port=28080, admin_port=28180, backends=BACKENDS)
    config = json.loads(path.read_text())
    listener = config["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert listener == {"address": "127.0.0.1", "port_value": 28080}
    assert config["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 28180}


def test_only_the_owner_reads_the_configuration_also_when_it_replaces_one(tmp_path: Path) -> None:
    old = tmp_path / "envoy.json"
    old.write_text("{}")
    old.chmod(0o644)
    path = write_envoy(tmp_path, port=28080, admin_port=28180, backends=BACKENDS)
    assert path == old
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_envoy_accepts_what_is_rendered(tmp_path: Path) -> None:
    path = write_envoy(tmp_path, port=28080, admin_port=28180, backends=BACKENDS)
    command = [str(envoy_binary(None)), "--mode", "validate", "-c", str(path), "--disable-hot-restart"]
    # Somewhere else than the repository, so that a relative path would fail.
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_command_renders_for_any_place(tmp_path: Path) -> None:
    places = [f"{name}={name}.example:{port}" for name, port in BACKENDS.items()]
    command = [sys.executable, "-m", "deploy.envoy", "--listen", "0.0.0.0:80", "--output", str(tmp_path / "envoy.json")]
    subprocess.run([*command, *places], cwd=REPOSITORY, check=True, timeout=60)
    config = json.loads((tmp_path / "envoy.json").read_text())
    assert config["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] == 80
    missing = subprocess.run([*command, "chat=chat:1"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "has no address" in missing.stderr
