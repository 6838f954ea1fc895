"""A gateway that is measured: the stack of one checkout, started as a user starts it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import psutil

from bench.children import ChildDied, Children
from bench.side import Side
from deploy.local.config import HOST
from deploy.local.jwt import platform_jwt

SERVICES: Final = ("envoy", "auth", "chat", "usage")
"""The processes that a chat's cost is looked at in."""
USER: Final = "bench"
_HEALTHY_SECONDS: Final = 90.0
_POLL_SECONDS: Final = 0.05
_READY: Final = (
    ("GET", "/v1/api-tokens", 200),
    ("GET", "/v1/usage?hours=1", 200),
    ("POST", "/v1/chat/completions", 400),
)
"""Requests that auth, usage and chat answer at once, and the status each of them has from a gateway that is ready."""
# What a shell needs; a user's keys, proxies and exporters have no place in a measurement.
_KEPT: Final = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class Gateway(Side):
    """The stack that ``make up`` runs in a checkout, with its state in a directory of its own.

    Only what is promised to users is relied on, so that an older checkout can be measured beside this one.
    """

    def __init__(self, name: str, *, checkout: Path, port: int, port_base: int, jwt_secret: str) -> None:
        super().__init__(name, port=port)
        self.checkout = checkout
        self._port_base = port_base
        self.jwt = platform_jwt(jwt_secret, user_id=USER)
        self._jwt_secret = jwt_secret
        self._root: psutil.Process | None = None

    @property
    def admin_port(self) -> int:
        """The port of Envoy's admin page."""
        return self._port_base

    @property
    def chat_port(self) -> int:
        """The port of the chat service."""
        return self._port_base + 2

    @property
    def chroma_server_port(self) -> int:
        """The port of Chroma's server."""
        return self._port_base + 7

    def start(self, children: Children, *, state: Path, settings: Mapping[str, str]) -> None:
        """Start the stack as one of ``children``; raises ChildDied when the checkout has not been built."""
        if not (self.checkout / "gen" / "turnpike.pb").is_file():
            raise ChildDied(f"{self.checkout} is not built: run make proto there")
        python = self.checkout / ".venv" / "bin" / "python"
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "TURNPIKE_PORT": str(self.port),
            "TURNPIKE_PORT_BASE": str(self._port_base),
            "TURNPIKE_STATE_DIR": str(state),
            "TURNPIKE_JWT_SECRET": self._jwt_secret,
            "PYTHONPATH": f"{self.checkout}:{self.checkout / 'gen'}",
            **settings,
        }
        command = [str(python if python.is_file() else sys.executable), "-m", "deploy.local"]
        children.start(self.name, command, directory=self.checkout, environment=environment)
        self._root = psutil.Process(children.pid(self.name))

    async def wait_until_ready(self) -> None:
        """Return when every service answers through the edge; raises ChildDied when one does not in time."""
        try:
            await asyncio.wait_for(self._ready(), _HEALTHY_SECONDS)
        except TimeoutError:
            raise ChildDied(f"the gateway {self.name} was not ready after {_HEALTHY_SECONDS:.0f} s") from None

    async def create_token(self) -> None:
        """Create the API token that the loads send."""
        async with self.client() as client:
            created = await client.post("/v1/api-tokens", json={"name": "bench"})
            created.raise_for_status()
            self.credential = str(created.json()["token"])

    def client(self) -> httpx.AsyncClient:
        """Return a client for what is not measured; its credential is the platform JWT."""
        headers = {"authorization": f"Bearer {self.jwt}"}
        return httpx.AsyncClient(base_url=f"http://{HOST}:{self.port}", headers=headers, trust_env=False)

    async def stored_requests(self) -> int:
        """Return how many requests of the last hour that were answered the usage service knows."""
        async with self.client() as client:
            answer = await client.get("/v1/usage", params={"hours": 1})
            answer.raise_for_status()
            totals = answer.json()["totals"]
            # Errors are the requests that were sent to see whether everything is ready.
            return int(totals["requests"]) - int(totals["errors"])

    def pid(self, name: str) -> int:
        """Return the process id of Envoy or of a service; raises ChildDied while there is none."""
        found = self.processes().get(name)
        if found is None:
            raise ChildDied(f"the gateway {self.name} has no process {name}")
        return found

    def pids(self) -> dict[str, int]:
        """Return the process ids of what a chat's cost is looked at in."""
        processes = self.processes()
        return {name: processes[name] for name in SERVICES}

    def processes(self) -> dict[str, int]:
        """Return the process id of every process of the stack by its name; ``starter`` is the first one."""
        if self._root is None:
            raise ChildDied(f"the gateway {self.name} was not started")
        found = {"starter": self._root.pid}
        for process in self._root.children(recursive=True):
            try:
                found.setdefault(_name(process.cmdline()), process.pid)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def kill(self, name: str) -> None:
        """Send a SIGKILL to a process; the stack's supervisor starts it again."""
        os.kill(self.pid(name), signal.SIGKILL)

    async def _ready(self) -> None:
        async with self.client() as client:
            while True:
                with suppress(httpx.TransportError):
                    statuses = [(await client.request(method, path)).status_code for method, path, _ in _READY]
                    if statuses == [status for _, _, status in _READY]:
                        return
                await asyncio.sleep(_POLL_SECONDS)


def _name(command: list[str]) -> str:
    for argument in command:
        if argument.startswith("services."):
            return argument.removeprefix("services.")
    return Path(command[0]).name if command else ""
