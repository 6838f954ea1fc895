"""What is measured: one gateway or two, and beside them the upstream, the baselines and a plain Envoy."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx

from bench.children import ChildDied, Children
from bench.envoys import plain_envoy, same_envoy
from bench.gateway import Gateway
from bench.messages import QUESTION
from bench.side import Side
from deploy.local.config import HOST, INNER_PORTS, REPOSITORY
from tests.ports import reserved_ports

GATEWAY_PORTS: Final = 1 + INNER_PORTS
"""How many ports a gateway takes."""
NO_CHROMA: Final = MappingProxyType({"CHROMA_BASE_URL": f"http://{HOST}:9"})
"""The settings of a stack that runs no Chroma server."""
_OWN_PORTS: Final = 8
_ANSWER_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Stack:
    """Everything that runs; ``before`` is the gateway of another checkout, if there is one."""

    children: Children
    gateway: Gateway
    before: Gateway | None
    bare: Side
    """A bare handler on grpc.aio's server, behind an Envoy with the gateway's configuration."""
    bare_on_runtime: Side
    """The same on the services' own runtime."""
    plain: Side
    """An Envoy that does nothing but pass on, in front of the upstream."""
    upstream: Side

    @property
    def gateways(self) -> Sequence[Gateway]:
        """The gateways in the order in which a round visits them."""
        return [self.gateway] if self.before is None else [self.before, self.gateway]


@asynccontextmanager
async def running_stack(directory: Path, *, against: Path | None, chroma: bool) -> AsyncIterator[Stack]:
    """Start everything on free ports, with its state under ``directory``; stop it at the end."""
    (directory / "logs").mkdir()
    with (
        reserved_ports(_OWN_PORTS + 2 * GATEWAY_PORTS) as ports,
        Children(logs=directory / "logs", directory=REPOSITORY) as children,
    ):
        stack = await _started(children, iter(ports), directory=directory, against=against, chroma=chroma)
        await _open(stack)
        yield stack


async def _started(
    children: Children, ports: Iterator[int], *, directory: Path, against: Path | None, chroma: bool
) -> Stack:
    upstream, bare, bare_grpc, runtime, runtime_grpc, plain, *admins = islice(ports, _OWN_PORTS)
    url = f"http://{HOST}:{upstream}/v1"
    settings = {
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "sk-bench",
        "MISTRAL_BASE_URL": url,
        "MISTRAL_API_KEY": "sk-bench",
        **({} if chroma else NO_CHROMA),
    }
    python = [sys.executable, "-m"]
    children.start("upstream", [*python, "bench.upstream", str(upstream)])
    children.start("bare", [*python, "bench.bare", str(bare_grpc)])
    children.start("bare-on-runtime", [*python, "bench.bare", str(runtime_grpc), "--services-runtime"])
    children.start("plain", plain_envoy(target=directory / "plain", port=plain, upstream_port=upstream))
    gateways = [
        start_gateway(children, name, checkout=checkout, ports=ports, directory=directory, settings=settings)
        for name, checkout in (("gateway", REPOSITORY), ("before", against))
        if checkout is not None
    ]
    for gateway in gateways:
        await gateway.wait_until_ready()
    stack = Stack(
        children=children,
        gateway=gateways[0],
        before=gateways[1] if against else None,
        bare=Side("bare", port=bare),
        bare_on_runtime=Side("bare-on-runtime", port=runtime),
        plain=Side("plain", port=plain),
        upstream=Side("upstream", port=upstream),
    )
    for side, grpc_port, admin in zip(
        (stack.bare, stack.bare_on_runtime), (bare_grpc, runtime_grpc), admins, strict=True
    ):
        _start_envoy_of_bare(stack, side, directory, grpc_port=grpc_port, admin=admin)
    return stack


def start_gateway(
    children: Children,
    name: str,
    *,
    checkout: Path,
    ports: Iterator[int],
    directory: Path,
    settings: Mapping[str, str],
) -> Gateway:
    """Start the gateway of a checkout on the next of ``ports``, with its state under ``directory``."""
    port, base, *_ = islice(ports, GATEWAY_PORTS)
    gateway = Gateway(name, checkout=checkout, port=port, port_base=base, jwt_secret=secrets.token_hex(32))
    gateway.start(children, state=directory / f"{name}-state", settings=settings)
    return gateway


def _start_envoy_of_bare(stack: Stack, side: Side, directory: Path, *, grpc_port: int, admin: int) -> None:
    """Start the gateway's Envoy once more in front of a bare handler, with only the ports changed."""
    gateway = stack.gateway
    ports = {gateway.port: side.port, gateway.admin_port: admin, gateway.chat_port: grpc_port}
    command = same_envoy(gateway.pid("envoy"), target=directory / f"envoy-{side.name}", ports=ports)
    stack.children.start(f"envoy-{side.name}", command)


async def _open(stack: Stack) -> None:
    """Give every side its credential, and see one answer from each."""
    for gateway in stack.gateways:
        await gateway.create_token()
    others = (stack.bare, stack.bare_on_runtime, stack.plain, stack.upstream)
    for side in others:
        side.credential = stack.gateway.credential
        try:
            await asyncio.wait_for(_answer(side), _ANSWER_SECONDS)
        except TimeoutError:
            stack.children.check()
            raise ChildDied(f"{side.name} does not answer after {_ANSWER_SECONDS:.0f} s") from None
    for each in (*stack.gateways, *others):
        await each.load(connections=1, total=1)


async def _answer(side: Side) -> None:
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {side.credential}"}) as client:
        while True:
            with suppress(httpx.TransportError):
                answer = await client.post(f"http://{HOST}:{side.port}/v1/chat/completions", content=QUESTION)
                if answer.status_code == httpx.codes.OK:
                    return
            await asyncio.sleep(_POLL_SECONDS)
