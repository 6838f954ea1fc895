"""The service as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.serving.routes import services_of
from services.chroma.servicer import ROUTES
from tests.e2e.stack import REPOSITORY
from tests.tied import tied


def _start(state: Path, settings: Mapping[str, str]) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}",
        "TURNPIKE_SERVICE_KEY": "0123456789abcdef",
        "TURNPIKE_STATE_DIR": str(state),
        # Nobody is there: the service must start without the others.
        "TURNPIKE_AUTH_ADDRESS": "127.0.0.1:1",
        "TURNPIKE_USAGE_ADDRESS": "127.0.0.1:1",
        **settings,
    }
    return subprocess.Popen(
        tied([sys.executable, "-m", "services.chroma"]),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_wrong_setting_ends_the_process_with_its_name(tmp_path: Path) -> None:
    with _start(tmp_path, {"CHROMA_NAMESPACE_SEPARATOR": "a+b"}) as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output.startswith("turnpike: CHROMA_NAMESPACE_SEPARATOR is wrong: must be 1 to 32 characters")


async def test_it_starts_reports_healthy_and_stops(tmp_path: Path, free_port: int) -> None:
    address = f"127.0.0.1:{free_port}"
    with _start(tmp_path, {"TURNPIKE_CHROMA_LISTEN": address, "CHROMA_API_KEY": "a-secret-key"}) as process:
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            for name in ("", *services_of(ROUTES)):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True, timeout=30)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "secret" not in output
