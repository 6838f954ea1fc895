"""A real Envoy in front of the Chroma service alone, for clients that speak HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from deploy.local.envoy import write_envoy
from tests.e2e.stack import bounded
from tests.ports import reserved_ports
from tests.tied import tied

_READY_SECONDS: Final = 30.0


@contextmanager
def running_edge(directory: Path, *, service_port: int) -> Iterator[str]:
    """Run Envoy with the repository's own configuration; yields the URL under which Chroma's API lies."""
    with reserved_ports(2) as (port, admin_port):
        yield from _running_edge(directory, port=port, admin_port=admin_port, service_port=service_port)


def _running_edge(directory: Path, *, port: int, admin_port: int, service_port: int) -> Iterator[str]:
    # Nothing here asks the other services.
    backends = {**dict.fromkeys(("auth", "chat", "ocr", "usage"), 9), "chroma": service_port}
    bootstrap = write_envoy(directory, port=port, admin_port=admin_port, backends=backends)
    envoy = Path(sys.executable).with_name("envoy")
    flags = ["--disable-hot-restart", "--log-level", "warning", "--concurrency", "1"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            tied([str(envoy), "-c", str(bootstrap), *flags]), env={"PATH": os.environ["PATH"]}, stdout=log, stderr=log
        )
    try:
        _wait_for(f"http://127.0.0.1:{admin_port}/ready", process, log=directory / "log")
        yield f"http://127.0.0.1:{port}/v1/chroma"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str, process: subprocess.Popen[bytes], *, log: Path) -> None:
    with httpx.Client(trust_env=False) as client:
        for _ in bounded(_READY_SECONDS):
            assert process.poll() is None, log.read_text()
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                continue
    raise AssertionError(f"Envoy did not start: {log.read_text()}")
