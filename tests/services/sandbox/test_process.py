import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from services.sandbox.config import SandboxSettings, split_address
from services.sandbox.store import FileLedger
from tests.ports import reserved_ports
from tests.tied import tied

ROOT = Path(__file__).parents[3]


@contextmanager
def running(ledger_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", httpx.Client]]:
    with reserved_ports() as ports:
        yield from _running(ledger_path, address=f"127.0.0.1:{ports[0]}")


def _running(ledger_path: Path, *, address: str) -> Iterator[tuple["subprocess.Popen[bytes]", httpx.Client]]:
    variables = {"TURNPIKE_SANDBOX_LISTEN": address, "TURNPIKE_SANDBOX_LEDGER_PATH": str(ledger_path)}
    with (
        subprocess.Popen(
            tied([sys.executable, "-m", "services.sandbox"]), cwd=ROOT, env={**os.environ, **variables}
        ) as process,
        httpx.Client(base_url=f"http://{address}", transport=httpx.HTTPTransport(retries=6), timeout=30) as client,
    ):
        try:
            yield process, client
        finally:
            process.kill()


async def test_the_ledger_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    faults = {"stall_after_events": 1, "stall_seconds": 600}
    asked = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "a"}], "sandbox": faults}
    with running(path) as (process, client):
        assert client.get("/health").json() == {"status": "ok"}
        client.post("/v1/chat/completions", json={**asked, "stream": False, "sandbox": {}})
        with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            events = answer.iter_lines()
            assert next(events).startswith("data: ")
            process.kill()
            process.wait()
    with closing(FileLedger(path)) as ledger:
        assert [(entry.seq, entry.outcome) for entry in await ledger.read()] == [(1, "completed"), (2, None)]


def test_a_signal_ends_the_process_in_time(tmp_path: Path) -> None:
    with running(tmp_path / "ledger.jsonl") as (process, client):
        assert client.get("/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("address", ["", "127.0.0.1", ":1", "a:b", "a:99999", "a:-1"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        SandboxSettings(listen=address)


def test_an_address_is_split() -> None:
    assert split_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split_address("[::1]:80") == ("::1", 80)
