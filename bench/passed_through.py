"""The latency that the gateway adds to OCR and to a Chroma query, over the same request to the upstream itself."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import random
import time
from statistics import median
from typing import Any, Final

from bench.plan import Plan
from bench.report import Row
from bench.stack import Stack
from deploy.local.config import HOST

_REQUESTS: Final = 300
_DIMENSIONS: Final = 128
_RECORDS: Final = 1_000
_DOCUMENT_BYTES: Final = 256 * 1024
_DATABASE: Final = "/api/v2/tenants/default_tenant/databases/default_database"


class _Side:
    """One way to the upstream: a connection that is kept, and what stands before the upstream's own paths."""

    def __init__(self, port: int, *, prefix: str = "", token: str = "") -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)
        self._prefix = prefix
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Ask and return the answer's body; raises RuntimeError when the status is an error."""
        self._connection.request(method, self._prefix + path, body or None, self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:200]!r}")
        return data

    def median_ms(self, path: str, body: bytes) -> float:
        """Return the median milliseconds of many POSTs, one after the other."""
        times = []
        for _ in range(_REQUESTS):
            begun = time.perf_counter()
            self.ask("POST", path, body)
            times.append(time.perf_counter() - begun)
        return median(times) * 1000


async def ocr(stack: Stack, plan: Plan) -> list[Row]:
    """Compare an OCR request with a document of 256 KiB."""
    document = "data:application/pdf;base64," + base64.b64encode(random.randbytes(_DOCUMENT_BYTES)).decode()
    body = json.dumps({"model": "bench-1", "document": {"type": "document_url", "document_url": document}}).encode()
    sides = (_Side(stack.gateway.port, token=stack.gateway.credential), _Side(stack.upstream.port))
    row = await asyncio.to_thread(_compare, "an OCR request of 256 KiB", sides, ("/v1/ocr", "/v1/ocr"), body, plan)
    stack.gateway.sent += plan.rounds * _REQUESTS
    return [row]


async def chroma(stack: Stack, plan: Plan) -> list[Row]:
    """Compare a query for ten neighbours among a thousand records, each side with a collection of its own."""
    gateway = stack.gateway
    sides = (
        _Side(gateway.port, prefix="/v1/chroma", token=gateway.credential),
        _Side(gateway.chroma_server_port),
    )
    vectors = [[random.random() for _ in range(_DIMENSIONS)] for _ in range(_RECORDS)]
    paths = [await asyncio.to_thread(_collection, side, vectors) for side in sides]
    # Two requests made the collection, and identity made the database that it is in.
    body = json.dumps({"query_embeddings": vectors[:1], "n_results": 10}).encode()
    row = await asyncio.to_thread(_compare, "a Chroma query", sides, (paths[0], paths[1]), body, plan)
    stack.gateway.sent += plan.rounds * _REQUESTS + 2
    return [row]


def _collection(side: _Side, vectors: list[list[float]]) -> str:
    made = json.loads(side.ask("POST", f"{_DATABASE}/collections", json.dumps({"name": "bench"}).encode()))
    path = f"{_DATABASE}/collections/{made['id']}"
    records = {"ids": [str(number) for number in range(len(vectors))], "embeddings": vectors}
    side.ask("POST", f"{path}/add", json.dumps(records).encode())
    return f"{path}/query"


def _compare(what: str, sides: tuple[_Side, _Side], paths: tuple[str, str], body: bytes, plan: Plan) -> Row:
    times: list[Any] = [
        [side.median_ms(path, body) for side, path in zip(sides, paths, strict=True)] for _ in range(plan.rounds)
    ]
    added = [ours - theirs for ours, theirs in times]
    return Row(
        f"median latency added to {what}, ms",
        f"{median(added):.2f} ({min(added):.2f} to {max(added):.2f})",
        target="no target",
        passed=None,
        raw=(
            f"gateway {median(ours for ours, _ in times):.2f} ms, "
            f"upstream alone {median(theirs for _, theirs in times):.2f} ms",
        ),
    )
