"""The table of routes knows every route of the real Chroma, and lets nothing else through."""

from __future__ import annotations

import re

import httpx
import pytest

from services.chroma.refusals import Refusal
from services.chroma.routes import ROUTES, Action, find

# Answered, but in no description of Chroma's: the bare path, and a heartbeat.
_UNDOCUMENTED = {("GET", ""), ("GET", "/api/v2")}


def _shape(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", template)


def test_every_route_of_the_real_server_is_in_the_table(chroma_url: str) -> None:
    paths = httpx.get(f"{chroma_url}/openapi.json", trust_env=False).json()["paths"]
    real = {(method.upper(), _shape(path)) for path, methods in paths.items() for method in methods}
    assert {(route.method, _shape(route.template)) for route in ROUTES} - _UNDOCUMENTED == real


def test_forwarded_keys_are_those_of_the_real_server(chroma_url: str) -> None:
    document = httpx.get(f"{chroma_url}/openapi.json", trust_env=False).json()
    schemas = document["components"]["schemas"]

    def keys(schema: dict[str, object]) -> set[str]:
        if "$ref" in schema:
            return keys(schemas[str(schema["$ref"]).rpartition("/")[2]])
        parts = schema.get("allOf") or []
        properties = schema.get("properties") or {}
        assert isinstance(parts, list)
        assert isinstance(properties, dict)
        return set(properties) | {key for part in parts for key in keys(part)}

    real = {
        (method.upper(), _shape(path)): keys(operation["requestBody"]["content"]["application/json"]["schema"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    ours = {(route.method, _shape(route.template)): route for route in ROUTES if route.action is not Action.REFUSE}
    assert {place: set(route.keys) for place, route in ours.items() if route.keys is not None} == {
        place: keys for place, keys in real.items() if place in ours
    }


def test_slots_are_filled() -> None:
    segments = ["api", "v2", "tenants", "t", "databases", "d", "collections", "by-id", "count"]
    route, slots = find("GET", segments)
    assert route.template.endswith("/by-id/{collection_id}")
    assert slots == {"tenant": "t", "database": "d", "collection_id": "count"}
    assert find("GET", ())[0].upstream == "/api/v2/heartbeat"
    assert find("HEAD", ("api", "v2"))[0].method == "GET"


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "api/v2/reset", 403, "Reset"),
        ("POST", "api/v2/tenants", 403, "Tenants"),
        ("PATCH", "api/v2/tenants/default_tenant", 403, "Tenants"),
        ("GET", "api/v2/collections/default_tenant:a:b", 403, "CRN"),
        ("POST", "api/v2/tenants/t/databases/d/collections/c/fork", 403, "Forks"),
        ("GET", "api/v2/tenants/t/databases/d/collections/c/fork_count", 403, "Forks"),
        ("POST", "api/v2/tenants/t/databases/d/collections/c/functions/attach", 403, "Functions"),
        ("GET", "api/v2/tenants/t/databases/d/collections/c/functions/f", 403, "Functions"),
        ("POST", "api/v2/tenants/t/databases/d/collections/c/attached_functions/f/detach", 403, "Functions"),
        ("GET", "api/v1/heartbeat", 410, "deprecated"),
        ("POST", "api/v1/collections/x/add", 410, "deprecated"),
        ("GET", "docs", 404, "no such path"),
        ("GET", "openapi.json", 404, "no such path"),
        ("GET", "API/v2/heartbeat", 404, "no such path"),
        ("GET", "api/v2/tenants/t/databases/d/collections/c/new", 404, "no such path"),
        ("PUT", "api/v2/heartbeat", 405, "GET, HEAD only"),
        ("get", "api/v2/heartbeat", 405, "GET, HEAD only"),
        ("OPTIONS", "api/v2/tenants/t/databases/d/collections/c", 405, "DELETE, GET, HEAD, PUT only"),
        ("GET", "api/v2/tenants/t/databases/d/collections/c/add", 405, "POST only"),
    ],
)
def test_everything_else_is_refused(method: str, path: str, status: int, says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        find(method, path.split("/"))
    assert refused.value.status == status
    assert ("allow" in refused.value.headers) == (status == 405)
