"""The service as a process: kills, restarts, second processes, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import msgspec

from tests.services.usage.builders import event, message
from tests.tied import tied
from turnpike.usage.v1 import ingest_pb2, ingest_pb2_grpc, usage_pb2, usage_pb2_grpc

SERVICE_KEY = "a-service-key-for-tests"
ROOT = Path(__file__).parents[3]


class Service:
    """A running `python -m services.usage`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    async def record(self, request: ingest_pb2.RecordUsageRequest) -> None:
        """Record a batch."""
        await ingest_pb2_grpc.UsageIngestServiceStub(self.channel).RecordUsage(
            request, metadata=(("x-turnpike-service-key", SERVICE_KEY),), timeout=30
        )

    async def totals(self) -> usage_pb2.Totals:
        """Read the totals of the last 7 days."""
        answer = await usage_pb2_grpc.UsageServiceStub(self.channel).GetUsage(usage_pb2.GetUsageRequest(), timeout=30)
        return answer.totals


async def spawn(state: Path, **variables: str) -> asyncio.subprocess.Process:
    """Start the service on any free port."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        "TURNPIKE_SERVICE_KEY": SERVICE_KEY,
        "TURNPIKE_STATE_DIR": str(state),
        "TURNPIKE_USAGE_LISTEN": "127.0.0.1:0",
        # Nobody listens there: reading without a usage key needs no auth service.
        "TURNPIKE_AUTH_ADDRESS": "127.0.0.1:9",
        **variables,
    }
    return await asyncio.create_subprocess_exec(
        *tied([sys.executable, "-m", "services.usage"]),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running(state: Path, **variables: str) -> AsyncIterator[Service]:
    """Run the service until the block ends; a process that is still there then is killed."""
    process = await spawn(state, **variables)
    assert process.stdout
    try:
        port = 0
        async for line in process.stdout:
            entry = msgspec.json.decode(line)
            if entry["event"] == "listening":
                port = entry["port"]
                break
        assert port, "the service ended before it listened"
        service = Service(process, port)
        async with service.channel:
            yield service
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def refused(state: Path, **variables: str) -> tuple[int | None, str]:
    """Return how a service that cannot start ends, and its last words."""
    process = await spawn(state, **variables)
    _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


async def test_kills_during_ingestion_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    batches = [
        ingest_pb2.RecordUsageRequest(
            batch_id=str(uuid.uuid4()), events=[message(event(at_ms=now - 1000 - n)) for n in range(50)]
        )
        for _ in range(60)
    ]
    chance = random.Random(7)
    pending = list(batches)
    for _ in range(3):
        acknowledged = await _send_until_killed(tmp_path, pending, after=chance.randrange(3, 15))
        assert acknowledged
        pending = [batch for batch in pending if batch.batch_id not in acknowledged]
    async with running(tmp_path) as service:
        for batch in [*pending, *chance.sample(batches, 20)]:
            await service.record(batch)
        totals = await service.totals()
        service.process.send_signal(signal.SIGTERM)
        await service.process.wait()
        assert service.process.returncode == 0
    assert (totals.requests, totals.total_tokens) == (3000, 3000 * 40)
    assert totals.estimated_cost_usd == 3000 * 2_500_001_500 / 1e9


async def _send_until_killed(state: Path, batches: list[ingest_pb2.RecordUsageRequest], *, after: int) -> set[str]:
    """Send batches over four lines at once, kill the service after some answers; returns what was acknowledged."""
    acknowledged: set[str] = set()
    queue = iter(batches)

    async def send(service: Service) -> None:
        for batch in queue:
            try:
                await service.record(batch)
            except grpc.aio.AioRpcError:
                return
            acknowledged.add(batch.batch_id)
            if len(acknowledged) == after:
                service.process.kill()

    async with running(state) as service:
        await asyncio.gather(*(send(service) for _ in range(4)))
    return acknowledged


async def test_a_second_process_is_told_why(tmp_path: Path) -> None:
    async with running(tmp_path):
        code, words = await refused(tmp_path)
    assert code == 1
    assert words.count("\n") == 1
    assert "another process" in words
    assert "TURNPIKE_STATE_DIR" in words


async def test_what_cannot_work_is_one_line_that_names_the_variable(tmp_path: Path) -> None:
    for variables, name in (
        ({"CLICKHOUSE_URL": "http://u:secret@127.0.0.1:9"}, "CLICKHOUSE_URL"),
        ({"CLICKHOUSE_URL": "tcp://u:secret@127.0.0.1:9"}, "CLICKHOUSE_URL"),
        ({"ANALYTICS_DATASET": "no-name"}, "ANALYTICS_DATASET"),
        ({"TURNPIKE_STATE_DIR": "/dev/null"}, "TURNPIKE_STATE_DIR"),
    ):
        code, words = await refused(tmp_path, **variables)
        assert code in (1, 2)
        assert words.count("\n") == 1
        assert name in words
        assert "secret" not in words
