"""What is measured: the gateway, one process of each service, and beside it the upstream and the baseline."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.children import ChildDied, Children
from bench.load import Found, Load, run
from bench.messages import QUESTION
from deploy.local.config import HOST, REPOSITORY, Ports
from deploy.local.environment import child_environment, chroma_url
from deploy.local.envoy import write_envoy
from deploy.local.health import grpc_serving, http_ok, unfinished
from deploy.local.jwt import platform_jwt
from deploy.local.preflight import chroma_binary, envoy_binary
from tests.ports import reserved_ports

SERVICES = ("envoy", "auth", "chat", "usage")
"""The processes of the gateway."""
_USER = "bench"
_HEALTHY_SECONDS = 60.0
# What a shell needs; a user's keys, proxies and exporters have no place in a measurement.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class Stack:
    """A running stack; ``sent`` counts the requests that the gateway's upstream has answered through it."""

    def __init__(self, children: Children, *, ports: Ports, bare_port: int, jwt: str) -> None:
        self.children = children
        self.ports = ports
        self.bare_port = bare_port
        self.jwt = jwt
        self.token = ""
        self.sent = 0

    async def gateway(self, **load: Any) -> Found:
        """Run a load through the gateway."""
        found = await run(Load(port=self.ports.envoy, credential=self.token, **load))
        self.sent += found.sent
        self.children.check()
        return found

    async def bare(self, **load: Any) -> Found:
        """Run a load through the same Envoy in front of the bare handler."""
        return await run(Load(port=self.bare_port, credential=self.token, **load))

    async def upstream(self, **load: Any) -> Found:
        """Run a load straight against the upstream."""
        return await run(Load(port=self.ports.sandbox, credential=self.token, **load))

    async def wait_until_healthy(self) -> None:
        """Return when everything serves; raises ChildDied when something does not within a minute."""
        async with httpx.AsyncClient(trust_env=False) as client:
            waits = {name: grpc_serving(port) for name, port in self.ports.services.items()}
            others = {
                "envoy": http_ok(client, f"http://{HOST}:{self.ports.admin}/ready"),
                "chroma-server": http_ok(client, f"{chroma_url(self.ports)}/api/v2/heartbeat"),
            }
            missing = await unfinished({**waits, **others}, seconds=_HEALTHY_SECONDS)
        self.children.check()
        if missing:
            raise ChildDied(f"not healthy after {_HEALTHY_SECONDS:.0f} s: {', '.join(missing)}")

    async def stored_requests(self) -> int:
        """Return how many requests of the last hour the usage service knows."""
        async with self.client() as client:
            answer = await client.get("/v1/usage", params={"hours": 1})
            answer.raise_for_status()
            return int(answer.json()["totals"]["requests"])

    def client(self) -> httpx.AsyncClient:
        """Return a client of the gateway for what is not measured; its credential is the platform JWT."""
        headers = {"authorization": f"Bearer {self.jwt}"}
        return httpx.AsyncClient(base_url=f"http://{HOST}:{self.ports.envoy}", headers=headers, trust_env=False)

    async def open(self) -> None:
        """Create the token of all loads, and see one answer from everything."""
        async with self.client() as client:
            created = await client.post("/v1/api-tokens", json={"name": "bench"})
            created.raise_for_status()
            self.token = str(created.json()["token"])
        for load in (self.gateway, self.bare, self.upstream):
            await load(connections=1, total=1)


@asynccontextmanager
async def running_stack(directory: Path) -> AsyncIterator[Stack]:
    """Start everything on free ports, with its state under ``directory``; stop it at the end."""
    for name in ("logs", "envoy", "envoy-bare"):
        (directory / name).mkdir()
    with reserved_ports(12) as free:
        async with _running_stack(directory, free) as stack:
            yield stack


@asynccontextmanager
async def _running_stack(directory: Path, free: Sequence[int]) -> AsyncIterator[Stack]:
    ports, bare_port, bare_admin_port, bare_grpc_port = _ports(free)
    secret = secrets.token_hex(32)
    environment = _environment(ports, state=directory, secret=secret)
    with Children(logs=directory / "logs", directory=REPOSITORY, environment=environment) as children:
        python = [sys.executable, "-m"]
        children.start("upstream", [*python, "bench.upstream", str(ports.sandbox)])
        children.start("bare", [*python, "bench.bare", str(bare_grpc_port)])
        flags = ["run", "--host", HOST, "--port", str(ports.chroma_server), "--path", str(directory / "chroma")]
        children.start("chroma-server", [str(chroma_binary()), *flags])
        for name in ports.services:
            children.start(name, [*python, f"services.{name}"])
        backends = ports.services
        children.start("envoy", _envoy(directory / "envoy", port=ports.envoy, admin=ports.admin, backends=backends))
        bare = {**backends, "chat": bare_grpc_port}
        command = _envoy(directory / "envoy-bare", port=bare_port, admin=bare_admin_port, backends=bare)
        children.start("envoy-bare", command)
        stack = Stack(children, ports=ports, bare_port=bare_port, jwt=platform_jwt(secret, user_id=_USER))
        await stack.wait_until_healthy()
        await _wait_for_bare(bare_port)
        await stack.open()
        yield stack


def _environment(ports: Ports, *, state: Path, secret: str) -> Mapping[str, str]:
    user = {name: os.environ[name] for name in _KEPT if name in os.environ}
    known = child_environment(
        user, ports=ports, state=state, service_key=secrets.token_hex(32), jwt_secret=secret, repository=REPOSITORY
    )
    url = f"http://{HOST}:{ports.sandbox}/v1"
    upstream = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-bench", "MISTRAL_BASE_URL": url}
    return {**known, **upstream, "CHROMA_BASE_URL": chroma_url(ports), "API_AUTH_REQUIRED": "1"}


def _envoy(target: Path, *, port: int, admin: int, backends: Mapping[str, int]) -> list[str]:
    config = write_envoy(target, port=port, admin_port=admin, backends=backends)
    flags = ["--disable-hot-restart", "--log-level", "warning", "--concurrency", str(min(2, os.cpu_count() or 1))]
    return [str(envoy_binary(None)), "-c", str(config), *flags]


def _ports(free: Sequence[int]) -> tuple[Ports, int, int, int]:
    """Say what each port is for; the upstream gets the sandbox's."""
    envoy, admin, auth, chat, usage, upstream, chroma, ocr, chroma_server, *bare = free
    services = {"auth": auth, "chat": chat, "usage": usage, "chroma": chroma, "ocr": ocr}
    ports = Ports(envoy=envoy, admin=admin, sandbox=upstream, chroma_server=chroma_server, **services)
    return ports, bare[0], bare[1], bare[2]


async def _wait_for_bare(port: int) -> None:
    async def answers() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    answer = await client.post(f"http://{HOST}:{port}/v1/chat/completions", json=json.loads(QUESTION))
                    if answer.status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass

    if await unfinished({"bare": answers()}, seconds=_HEALTHY_SECONDS):
        raise ChildDied(f"the baseline does not answer after {_HEALTHY_SECONDS:.0f} s")
