"""The real chromadb clients, through a real Envoy, against a real Chroma."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.stack import REPOSITORY
from tests.services.chroma.edge import running_edge
from tests.services.chroma.support import DATABASES, Service, credential_of

UserId = Callable[[str], str]
_SECONDS = 60


@pytest.fixture
async def url(service: Service, tmp_path: Path) -> AsyncIterator[str]:
    """Where a client finds Chroma."""
    with ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, running_edge(tmp_path, service_port=service.port))


async def play(program: str, *arguments: str) -> str:
    """Run a program to its end, and return its last word."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"tests.services.chroma.{program}", *arguments),
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), _SECONDS)
    assert process.returncode == 0, output.decode()
    return output.decode().split()[-1] if output else ""


@pytest.mark.parametrize("flow", ["users", "databases", "refusals"])
async def test_the_sync_clients(url: str, user: UserId, flow: str) -> None:
    await play("chromadb_sync", flow, url, credential_of(user("alice")), credential_of(user("bob")))


async def test_the_async_client(url: str, service: Service, user: UserId) -> None:
    owner = user("owner")
    notes = await play("chromadb_async", "owner", url, credential_of(owner))
    await play("chromadb_async", "stranger", url, credential_of(user("stranger")), notes)
    found = await service.ask(owner, "POST", f"{DATABASES}/default_database/collections/{notes}/get", {})
    assert found.content["documents"] == ["owner new b", "owner c", "owner d"]
