"""The load generator: python -m bench.client LOAD, with a bench.load.Load as JSON; prints what it found as JSON."""

from __future__ import annotations

import asyncio
import sys
import time
from array import array

import msgspec
import uvloop

from bench.connection import Answer, Connection
from bench.load import Found, Load, percentiles
from bench.messages import ANSWER, http_request, question, stream_answer, stream_question

_SHOWN_BYTES = 300


class _Generator:
    """Keeps every connection busy until the load is done; the first wrong answer ends it."""

    def __init__(self, load: Load) -> None:
        streamed = load.events > 0
        body = stream_question(events=load.events, rate=load.rate) if streamed else question(body_bytes=load.body_bytes)
        self._load = load
        self._request = http_request(body, credential=load.credential)
        self._right = stream_answer(events=load.events) if streamed else ANSWER
        self._idle: list[Connection] = []
        self._all_idle = asyncio.Event()
        self._left = load.total or sys.maxsize
        self._until = float("inf")
        self._first_bytes = array("d")
        self._latencies = array("d")
        self._in_time = 0
        self._wrong = ""

    async def run(self) -> Found:
        """Connect, ask, and say what was found; raises SystemExit for a wrong answer."""
        loop = asyncio.get_running_loop()
        for _ in range(self._load.connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self._answered), "127.0.0.1", self._load.port
            )
            self._idle.append(connection)
        begun = time.perf_counter()
        waves = [await self._once() for _ in range(self._load.waves or 1)]
        if self._wrong:
            raise SystemExit(self._wrong)
        return Found(
            sent=len(self._latencies),
            answers=self._in_time,
            seconds=self._load.seconds or time.perf_counter() - begun,
            first_byte=percentiles(self._first_bytes),
            latency=percentiles(self._latencies),
            waves=waves,
        )

    async def _once(self) -> float:
        begun = time.perf_counter()
        if self._load.seconds:
            self._until = begun + self._load.seconds
        if self._load.waves:
            self._left = self._load.connections
        self._all_idle.clear()
        asking, self._idle = self._idle, []
        for connection in asking:
            self._ask(connection, now=begun)
        await self._all_idle.wait()
        return time.perf_counter() - begun

    def _ask(self, connection: Connection, *, now: float) -> None:
        if self._left <= 0 or now >= self._until or self._wrong:
            self._idle.append(connection)
            if len(self._idle) == self._load.connections:
                self._all_idle.set()
            return
        self._left -= 1
        connection.send(self._request)

    def _answered(self, connection: Connection, answer: Answer | None) -> None:
        if answer is None:
            self._wrong = self._wrong or "the server closed a connection before it had answered"
            self._ask(connection, now=0.0)
            return
        if answer.status != 200 or answer.body != self._right:
            self._wrong = f"a wrong answer, status {answer.status}: {answer.body[:_SHOWN_BYTES]!r}"
        self._latencies.append(answer.ended_at - answer.sent_at)
        self._first_bytes.append(answer.first_byte_at - answer.sent_at)
        # What ends after the time is over is an answer, but no part of the speed.
        if answer.ended_at <= self._until:
            self._in_time += 1
        self._ask(connection, now=answer.ended_at)


async def main() -> None:
    """Run the load that the only argument describes."""
    generator = _Generator(msgspec.json.decode(sys.argv[1], type=Load))
    sys.stdout.buffer.write(msgspec.json.encode(await generator.run()))


if __name__ == "__main__":
    uvloop.run(main())
