"""A real sandbox on a free port, with a clock that does not wait."""

import asyncio
import math
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from openai import OpenAI

from services.sandbox.app import Parts, create_app
from services.sandbox.server import make_server
from services.sandbox.store import Entry
from tests.services.sandbox.fake_ledger import FakeLedger

WAIT_SECONDS = 20


class Sleeper:
    """Writes down each delay and does not wait, but for those of `hold_from` seconds or more, which never end."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.hold_from = math.inf
        self.held = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        if seconds:
            self.delays.append(seconds)
        if seconds >= self.hold_from:
            self.held.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)


class WatchedLedger(FakeLedger):
    """A ledger that another thread can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._ends = 0

    async def end(self, entry: Entry) -> None:
        await super().end(entry)
        with self._changed:
            self._ends += 1
            self._changed.notify_all()

    def wait_for_ends(self, count: int) -> list[Entry]:
        with self._changed:
            assert self._changed.wait_for(lambda: self._ends >= count, timeout=WAIT_SECONDS)
        return self.entries


@dataclass(kw_only=True)
class Sandbox:
    port: int
    ledger: WatchedLedger = field(default_factory=WatchedLedger)
    sleeper: Sleeper = field(default_factory=Sleeper)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def last(self, count: int = 1) -> Entry:
        return self.ledger.wait_for_ends(count)[-1]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = Sandbox(port=listener.getsockname()[1])
        app = create_app(Parts(ledger=served.ledger, sleep=served.sleeper, now=lambda: 1_800_000_000.5))
        server = make_server(app, host="127.0.0.1", port=served.port)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield served
        finally:
            server.should_exit = True
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{sandbox.url}/v1", api_key="sk-secret", max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk
