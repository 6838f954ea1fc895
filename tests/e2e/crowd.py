"""Opens many streams at once, beside thousands of idle connections and many bodies that are never sent whole.

As a program: `python -m tests.e2e.crowd`. It ends by itself; the exit status is 1 when a stream was not whole, a plain
request failed or took too long, or Envoy's memory grew beyond the bound. It needs Linux: the idle connections come from
several addresses of the loopback network, because one address has too few ports.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import resource
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import uvloop

from tests.e2e.crowd_upstream import CrowdUpstream, event, stream_body
from tests.e2e.stack import Stack, running_stack

_HOST: Final = "127.0.0.1"
_SOURCES: Final = [f"127.0.0.{number}" for number in range(2, 10)]
_CONNECTING: Final = 200
"""How many connections are being opened at a time: a listener's queue is finite."""
_PATIENCE_SECONDS: Final = 120.0
_BODY_BYTES: Final = 32 * 1024 * 1024
_PART: Final = b"x" * (256 * 1024)
_MADE_UP: Final = "tp_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH"
_PROBE_PAUSE_SECONDS: Final = 0.05
_SPARE_FILES: Final = 200
_COMMENT: Final = re.compile(rb"^:.*\n\n", re.MULTILINE)


@dataclass(frozen=True)
class Crowd:
    """How many come, and what must still hold."""

    streams: int = 2_000
    idle: int = 10_000
    bodies: int = 100
    events: int = 10
    interval_seconds: float = 1.0
    """Between two events of a stream."""
    slowest_seconds: float = 10.0
    """How long a plain request may take meanwhile."""
    envoy_mib: float = 1_024.0
    """How much Envoy's resident memory may grow."""


@dataclass
class Report:
    """What happened."""

    crowd: Crowd
    streams: Counter[str] = field(default_factory=Counter)
    """How many streams ended how; `whole` is the one good way."""
    most_at_once: int = 0
    """The streams that were open at the provider in the same moment."""
    idle_open: int = 0
    """Idle connections that were still open at the end; the others were refused or closed."""
    bodies: Counter[str] = field(default_factory=Counter)
    """What happened to the half-sent bodies."""
    probes: Counter[str] = field(default_factory=Counter)
    """The statuses of plain requests, sent the whole time."""
    seconds: list[float] = field(default_factory=list)
    """How long each of them took."""
    mib: dict[str, list[float]] = field(default_factory=dict)
    """Resident memory of Envoy and chat, over time."""
    took_seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Everything that did not hold."""
        grown = max(self.mib["envoy"]) - self.mib["envoy"][0]
        held = {
            f"not all streams were whole: {dict(self.streams)}": self.streams == {"whole": self.crowd.streams},
            f"not all streams ran at once: {self.most_at_once}": self.most_at_once == self.crowd.streams,
            f"plain requests failed: {dict(self.probes)}": set(self.probes) == {"200"},
            f"a plain request took {max(self.seconds, default=0):.1f} s": max(self.seconds, default=0)
            <= self.crowd.slowest_seconds,
            f"Envoy grew by {grown:.0f} MiB": grown <= self.crowd.envoy_mib,
        }
        return [failure for failure, holds in held.items() if not holds]

    def __str__(self) -> str:
        """Return the report as lines."""
        times = sorted(self.seconds)
        middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
        lines = [
            f"streams                       {dict(self.streams)}, at most {self.most_at_once} at once",
            f"idle connections              {self.idle_open} of {self.crowd.idle} still open at the end",
            f"half-sent bodies of 32 MiB    {dict(self.bodies)}",
            f"plain requests meanwhile      {dict(self.probes)}; p50 {middle * 1000:.0f}, p99 {late * 1000:.0f}, "
            f"max {times[-1] * 1000:.0f} ms",
            *(_memory(name, values) for name, values in self.mib.items()),
            f"took                          {self.took_seconds:.0f} s",
        ]
        return "\n".join([*lines, *(f"FAILED: {failure}" for failure in self.failures)])


def _memory(name: str, mib: Sequence[float]) -> str:
    return f"{f'{name}, resident MiB':<30}{mib[0]:.0f} before, {max(mib):.0f} at most, {mib[-1]:.0f} after"


def allow_open_files(wanted: int) -> None:
    """Raise this process's limit of open files within the hard one; raises OSError when that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OSError(f"{wanted} open files are needed, the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _exchange(port: int, *, body: bytes, token: str) -> tuple[str, bytes]:
    """Send a chat over a connection of its own; return the status and the body of the answer."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: turnpike\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(_HOST, port)
    try:
        writer.write(head.encode() + body)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            answer = await reader.read()
    finally:
        writer.close()
    answered, _, rest = answer.partition(b"\r\n\r\n")
    is_chunked = b"transfer-encoding: chunked" in answered.lower()
    return answered[9:12].decode() or "closed", _unchunked(rest) if is_chunked else rest


def _unchunked(data: bytes) -> bytes:
    parts = []
    start = 0
    while (line_end := data.find(b"\r\n", start)) >= 0 and (size := int(data[start:line_end], 16)):
        parts.append(data[line_end + 2 : line_end + 2 + size])
        start = line_end + 2 + size + 2
    return b"".join(parts)


async def _stream(stack: Stack, *, number: int, events: int) -> str:
    """Ask for a stream, and say how it ended; each has other events, so that none can get another's."""
    try:
        status, body = await _exchange(stack.port, body=stream_body(number), token=stack.token)
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    if status != "200":
        return status
    right = b"".join(event(number, each) for each in range(events)) + b"data: [DONE]\n\n"
    # Comments keep a connection alive while a provider is silent, and are no events.
    return "whole" if _COMMENT.sub(b"", body) == right else "not whole"


async def _probe(stack: Stack, report: Report) -> None:
    """Send one plain request after the other until cancelled."""
    body = b'{"model":"crowd","messages":[{"role":"user","content":"Are you there?"}]}'
    while True:
        begun = time.perf_counter()
        try:
            status, _ = await _exchange(stack.port, body=body, token=stack.token)
        except (OSError, TimeoutError) as error:
            status = type(error).__name__
        report.probes[status] += 1
        report.seconds.append(time.perf_counter() - begun)
        await asyncio.sleep(_PROBE_PAUSE_SECONDS)


async def _half_body(stack: Stack, *, credential: str, ended: asyncio.Event) -> str:
    """Send all but the end of a large body, then keep the connection; return what came of it once all is over."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: turnpike\r\ncontent-length: {_BODY_BYTES}\r\n"
    head += f"authorization: Bearer {credential}\r\n" if credential else ""
    try:
        reader, writer = await asyncio.open_connection(_HOST, stack.port)
    except OSError:
        return "no connection"
    answer = asyncio.ensure_future(reader.read(12))
    sending = asyncio.ensure_future(_send_parts(writer, head.encode() + b"\r\n"))
    over = asyncio.ensure_future(ended.wait())
    await asyncio.wait((answer, over), return_when=asyncio.FIRST_COMPLETED)
    is_sent = sending.done() and sending.exception() is None
    for task in (answer, sending, over):
        task.cancel()
    await asyncio.gather(answer, sending, over, return_exceptions=True)
    writer.transport.abort()
    if answer.cancelled():
        return "waited for" if is_sent else "held back"
    return "closed" if answer.exception() or not answer.result() else f"refused with {answer.result()[9:12].decode()}"


async def _send_parts(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(head)
    for _ in range(_BODY_BYTES // len(_PART) - 1):
        writer.write(_PART)
        await writer.drain()


@asynccontextmanager
async def _idle_connections(stack: Stack, count: int) -> AsyncIterator[Sequence[asyncio.Transport]]:
    """Open connections that send nothing, from several addresses, and keep them."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(_CONNECTING)

    async def open_one(number: int) -> asyncio.Transport | None:
        source = (_SOURCES[number % len(_SOURCES)], 0)
        async with gate:
            with suppress(OSError):
                transport, _ = await loop.create_connection(asyncio.Protocol, _HOST, stack.port, local_addr=source)
                return transport
        return None

    transports = [each for each in await asyncio.gather(*map(open_one, range(count))) if each is not None]
    try:
        yield transports
    finally:
        for transport in transports:
            transport.abort()


async def _watch(processes: dict[str, psutil.Process], report: Report) -> None:
    while True:
        for name, process in processes.items():
            report.mib.setdefault(name, []).append(process.memory_info().rss / 2**20)
        await asyncio.sleep(0.2)


async def _run(stack: Stack, crowd: Crowd, *, listener: socket.socket) -> Report:
    report = Report(crowd)
    upstream = CrowdUpstream(streams=crowd.streams, events=crowd.events, interval_seconds=crowd.interval_seconds)
    begun = time.monotonic()
    async with upstream.listening(listener):
        watching = [asyncio.ensure_future(_watch(_processes(stack), report))]
        await asyncio.sleep(0.5)
        watching += [asyncio.ensure_future(_probe(stack, report)) for _ in range(2)]
        ended = asyncio.Event()
        async with _idle_connections(stack, crowd.idle) as idle:
            bodies = [
                asyncio.ensure_future(_half_body(stack, credential=_MADE_UP if number % 2 else "", ended=ended))
                for number in range(crowd.bodies)
            ]
            await asyncio.sleep(crowd.interval_seconds)
            asyncio.get_running_loop().call_later(_PATIENCE_SECONDS / 4, upstream.go_on)
            streams = [_stream(stack, number=number, events=crowd.events) for number in range(crowd.streams)]
            report.streams.update(await asyncio.gather(*streams))
            report.most_at_once = upstream.most_at_once
            ended.set()
            report.bodies.update(await asyncio.gather(*bodies))
            report.idle_open = sum(not transport.is_closing() for transport in idle)
        await asyncio.sleep(crowd.interval_seconds)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    report.took_seconds = time.monotonic() - begun
    return report


def _processes(stack: Stack) -> dict[str, psutil.Process]:
    children = psutil.Process(stack.process.pid).children(recursive=True)
    envoy = next(each for each in children if Path(each.cmdline()[0]).name == "envoy")
    return {"envoy": envoy, "chat": psutil.Process(stack.pid("chat"))}


def run(state: Path, crowd: Crowd) -> Report:
    """Run a stack with a provider of our own, let the crowd come, and report."""
    allow_open_files(2 * crowd.streams + crowd.idle + crowd.bodies + _SPARE_FILES)
    with socket.create_server((_HOST, 0), backlog=4096) as listener:
        settings = {
            "OPENAI_BASE_URL": f"http://{_HOST}:{listener.getsockname()[1]}/v1",
            "OPENAI_API_KEY": "sk-crowd",
            "CHROMA_BASE_URL": f"http://{_HOST}:9",
            "TURNPIKE_LOG_LEVEL": "warning",
        }
        with running_stack(state, settings) as stack:
            return uvloop.run(_run(stack, crowd, listener=listener))


def main() -> None:
    """Run from the command line; exits with 1 when anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = Crowd()
    parser.add_argument("--streams", type=int, default=defaults.streams)
    parser.add_argument("--idle", type=int, default=defaults.idle)
    parser.add_argument("--bodies", type=int, default=defaults.bodies)
    parser.add_argument("--envoy-mib", type=float, default=defaults.envoy_mib, help="how much Envoy may grow")
    crowd = Crowd(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as directory:
        report = run(Path(directory) / "state", crowd)
    print(report)
    raise SystemExit(1 if report.failures else 0)


if __name__ == "__main__":
    main()
