"""A whole gateway, started as a user starts it, in a directory and on ports of its own."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from deploy.local.config import INNER_PORTS
from deploy.local.jwt import platform_jwt
from tests.ports import reserved_ports

REPOSITORY: Final = Path(__file__).parents[2]
SERVICES: Final = ("auth", "chat", "usage")
_START_SECONDS: Final = 180.0
_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
# What would lead a stack of the tests to somebody's real provider, database or collector.
_FOREIGN: Final = re.compile(
    r"^(TURNPIKE_|OPENAI_|MISTRAL_|CHROMA_|OTEL_|CLICKHOUSE_|USAGE_|API_AUTH_|PROXY_API_|WORKER_API_|ANALYTICS_)"
)


@dataclass
class Stack:
    """A running gateway: where it is, and the credentials of its demo user."""

    state: Path
    port: int
    port_base: int
    process: subprocess.Popen[str]
    token: str = ""
    jwt: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where Envoy listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def sandbox_url(self) -> str:
        """Where the sandbox listens."""
        return f"http://127.0.0.1:{self.port_base + 4}"

    def client(self, *, credential: str | None = None, **options: Any) -> httpx.Client:
        """Return a client that sends ``credential``: the demo user's token by default, nothing when empty."""
        token = self.token if credential is None else credential
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, **options)

    def jwt_of(self, user_id: str) -> str:
        """Return a platform JWT of a user."""
        return platform_jwt((self.state / "jwt_secret").read_text().strip(), user_id=user_id)

    def new_token(self, user_id: str, **fields: Any) -> dict[str, Any]:
        """Create an API token of a user, and return the gateway's answer."""
        with self.client(credential=self.jwt_of(user_id)) as client:
            answer = client.post("/v1/api-tokens", json=fields)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def pid(self, name: str) -> int | None:
        """Return the process id of a child, None while it is down."""
        for child in psutil.Process(self.process.pid).children():
            try:
                if f"services.{name}" in child.cmdline():
                    return int(child.pid)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return None

    def kill(self, name: str) -> None:
        """Kill a service with SIGKILL; the stack's supervisor starts it again."""
        pid = self.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def wait_until_ready(self) -> None:
        """Return when every service answers through the edge."""
        transport = httpx.HTTPTransport(retries=3)
        with self.client(credential=self.jwt_of("prober"), transport=transport) as client:
            for _ in bounded(_READY_SECONDS):
                answers = [
                    client.get("/v1/api-tokens"),
                    client.get("/v1/usage", params={"hours": 1}),
                    client.post("/v1/chat/completions", content=b""),
                ]
                if [answer.status_code for answer in answers] == [200, 200, 400]:
                    return
        raise AssertionError(f"the stack did not come back: {[answer.text for answer in answers]}")

    def stop(self) -> None:
        """Stop as Ctrl-C does, and wait for the end of every process."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(_STOP_SECONDS) == 0
        _, alive = psutil.wait_procs(children, timeout=_STOP_SECONDS)
        assert not alive, f"left behind: {alive}"


@contextmanager
def running_stack(state: Path, settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Start a stack with its state in ``state``; whatever happens, no process of it stays."""
    with reserved_ports(1 + INNER_PORTS) as ports:
        yield from _running_stack(state, dict(settings or {}), port=ports[0], port_base=ports[1])


def _running_stack(state: Path, settings: Mapping[str, str], *, port: int, port_base: int) -> Iterator[Stack]:
    environment = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    environment |= {
        "TURNPIKE_STATE_DIR": str(state),
        "TURNPIKE_PORT": str(port),
        "TURNPIKE_PORT_BASE": str(port_base),
        # Half a gigabyte that few tests need; an empty value runs a server.
        "CHROMA_BASE_URL": "http://127.0.0.1:9",
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}",
        **settings,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.local"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stack = Stack(state=state, port=port, port_base=port_base, process=process, settings=settings)
    assert process.stdout is not None
    with process.stdout:
        try:
            _wait_for_welcome(stack)
            yield stack
        finally:
            if process.poll() is None:
                stack.stop()


def _wait_for_welcome(stack: Stack) -> None:
    assert stack.process.stdout is not None
    seen = []
    # The runner waits for its children however long it takes; its end ends its output.
    too_late = threading.Timer(_START_SECONDS, stack.process.terminate)
    too_late.start()
    try:
        for line in stack.process.stdout:
            seen.append(line)
            if "print(client.chat" in line:
                break
        else:
            # Its output ends a moment before the process does: whoever stops it in between sees a wrong exit status.
            stack.process.wait(_STOP_SECONDS)
            raise AssertionError("the stack did not start:\n" + "".join(seen))
    finally:
        too_late.cancel()
    text = (stack.state / "env").read_text()
    values = dict(re.findall(r"^export (\w+)='?([^'\n]*)'?$", text, flags=re.MULTILINE))
    assert values["TURNPIKE_URL"] == stack.url
    stack.token, stack.jwt = values["TURNPIKE_TOKEN"], values["TURNPIKE_JWT"]


def bounded(seconds: float, *, step_seconds: float = 0.05) -> Iterator[None]:
    """Yield until ``seconds`` are over: to ask a distant process, that offers nothing to wait on, until it is there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        select.select([], [], [], step_seconds)
