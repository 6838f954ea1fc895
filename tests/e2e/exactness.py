"""Kills services while requests run, and compares what was metered with what the sandbox served.

As a program: `python -m tests.e2e.exactness --requests 5000 --kills 20`. With `--bit-flips` chat is killed in each
round, and before it is back one bit of its outbox is flipped: what that damages may be lost, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from tests.e2e.bit_flips import Flip, kill_and_flip, segments
from tests.e2e.stack import SERVICES, Stack, bounded, running_stack

_CONNECTIONS: Final = 24
_CUT_ONE_IN: Final = 5
_PAUSE_SECONDS: Final = 0.3
_BACK_SECONDS: Final = 60.0
_DRAIN_SECONDS: Final = 600.0
_STANDSTILL_SECONDS: Final = 120.0
_READER: Final = """
import sys, clickhouse_connect, msgspec
client = clickhouse_connect.get_client(interface="chdb", path=sys.argv[1])
result = client.query(
    "SELECT request_id, outcome, status, usage_source, uncached_input_tokens, cache_read_tokens, cache_write_tokens,"
    " text_output_tokens, reasoning_tokens, total_tokens"
    " FROM turnpike.ai_worker_requests FINAL WHERE request_id LIKE 'exact-%'"
)
rows = [dict(zip(result.column_names, row)) for row in result.result_rows]
client.close()
sys.stdout.buffer.write(msgspec.json.encode(rows))
"""


@dataclass(frozen=True)
class Report:
    """What was asked, what the sandbox saw, what was metered, and every way in which they differ."""

    sent: int
    kills: int
    served: int
    events: int
    outcomes: dict[str, int]
    interrupted: int
    differences: list[str]
    flips: Sequence[Flip] = ()
    lost_to_flips: int = 0

    def __str__(self) -> str:
        """Return the report as lines."""
        return (
            f"requests sent                        {self.sent}\n"
            f"SIGKILLs                             {self.kills}\n"
            f"requests that reached the sandbox    {self.served}\n"
            f"events stored                        {self.events}\n"
            f"outcomes of those that reached it    {self.outcomes}\n"
            f"marked crashed                       {self.interrupted}\n"
            f"bits flipped                         {len(self.flips)} in {Counter(flip.kind for flip in self.flips)}\n"
            f"requests without an event for that   {self.lost_to_flips}\n"
            f"differences                          {len(self.differences)}\n" + "\n".join(self.differences[:20])
        )


async def hammer(stack: Stack, *, requests: int, kills: int, seed: int, flips: list[Flip] | None = None) -> int:
    """Send ``requests`` while ``kills`` SIGKILLs fall on chat, usage and auth in turn; returns the kills that hit.

    With ``flips`` each of them falls on chat too, then a bit of its outbox is flipped, and noted there.
    """
    randomness = random.Random(seed)
    left = iter(range(requests))
    # The kills are spread over the requests, not over time, so that they fall into the work on any machine.
    milestones = {requests * (number + 1) // (kills + 1): asyncio.Event() for number in range(kills)}
    done = 0
    hit = 0

    async def worker() -> None:
        nonlocal done
        for number in left:
            served = await _request(stack, number, cut_at=_cut(number, randomness))
            done += 1
            if done in milestones:
                milestones[done].set()
            if not served:
                # Or all requests would be over before a killed service is back.
                await asyncio.sleep(_PAUSE_SECONDS)

    async def reaper() -> None:
        nonlocal hit
        for number, milestone in enumerate(milestones.values()):
            await milestone.wait()
            name = SERVICES[number % len(SERVICES)]
            await asyncio.to_thread(_back, stack, name)
            await asyncio.sleep(randomness.random() * _PAUSE_SECONDS)
            stack.kill(name)
            hit += 1
            if flips is not None:
                await asyncio.to_thread(_back, stack, "chat")
                flips.extend(await asyncio.to_thread(kill_and_flip, stack, randomness=randomness))

    await asyncio.gather(reaper(), *(worker() for _ in range(_CONNECTIONS)))
    return hit


def _back(stack: Stack, name: str) -> None:
    for _ in bounded(_BACK_SECONDS, step_seconds=0.02):
        if stack.pid(name) is not None:
            return
    raise AssertionError(f"{name} did not come back")


def _cut(number: int, randomness: random.Random) -> int | None:
    return randomness.randrange(0, 6000) if number % _CUT_ONE_IN == 0 else None


async def _request(stack: Stack, number: int, *, cut_at: int | None) -> bool:
    """Send one request over a connection of its own; hang up after ``cut_at`` bytes. Says whether it was answered."""
    body = msgspec.json.encode(
        {
            "model": "exact-cached-reasoning",
            "messages": [{"role": "user", "content": f"request {number}"}],
            "stream": number % 2 == 0,
            "sandbox": {"events": 8 + number % 17, "event_delay_seconds": 0.004, "first_byte_delay_seconds": 0.01},
        }
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: turnpike\r\nauthorization: Bearer {stack.token}\r\n"
        f"x-request-id: exact-{number}-{uuid.uuid4()}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(head.encode() + body)
        received = 0
        status = b""
        while data := await asyncio.wait_for(reader.read(64 if cut_at is not None else 65536), 60):
            received += len(data)
            status = status or data[:12]
            if cut_at is not None and received > cut_at:
                writer.transport.abort()
                return True
        writer.close()
    except OSError:
        return False
    return status == b"HTTP/1.1 200"


def compare(
    stack: Stack, *, ledger: Sequence[dict[str, Any]], sent: int, kills: int, flips: Sequence[Flip] = ()
) -> Report:
    """Compare the sandbox's ledger with the events in the stopped stack's database."""
    damaged = {flip.request_id for flip in flips}
    lost_to_flips = 0
    served: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in ledger:
        if entry["request_id"].startswith("exact-"):
            served[entry["request_id"]].append(entry)
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    rows = stored_events(stack.state)
    for event in rows:
        events[event["request_id"]].append(event)
    differences = [
        f"{request_id}: {len(entries)} times at the sandbox"
        for request_id, entries in served.items()
        if len(entries) > 1
    ]
    outcomes: Counter[str] = Counter()
    for request_id, entries in served.items():
        found = events.get(request_id, [])
        if not found and request_id in damaged:
            lost_to_flips += 1
            continue
        if len(found) != 1:
            differences.append(f"{request_id}: {len(found)} events, {entries[0]}")
            continue
        outcomes[found[0]["outcome"]] += 1
        differences += _differences(entries[0], found[0])
    differences += [f"{request_id}: {len(found)} events" for request_id, found in events.items() if len(found) > 1]
    return Report(
        sent,
        kills,
        len(served),
        len(rows),
        dict(outcomes),
        outcomes["crashed"],
        differences,
        flips=flips,
        lost_to_flips=lost_to_flips,
    )


def _differences(entry: dict[str, Any], event: dict[str, Any]) -> list[str]:
    if event["outcome"] != "completed":
        return []
    counts = {
        "prompt_tokens": event["uncached_input_tokens"] + event["cache_read_tokens"] + event["cache_write_tokens"],
        "completion_tokens": event["text_output_tokens"] + event["reasoning_tokens"],
        "cached_tokens": event["cache_read_tokens"],
        "reasoning_tokens": event["reasoning_tokens"],
        "total_tokens": event["total_tokens"],
    }
    return [
        f"{entry['request_id']}: {name} is {count}, the sandbox says {entry.get(name)}"
        for name, count in counts.items()
        if entry.get(name) != count
    ]


def stored_events(state: Path) -> list[dict[str, Any]]:
    """Read every event from the embedded database of a stopped stack; in a process of its own, as chDB wants one."""
    run = subprocess.run(
        [sys.executable, "-c", _READER, str(state / "usage" / "clickhouse")], capture_output=True, check=True
    )
    events: list[dict[str, Any]] = msgspec.json.decode(run.stdout)
    return events


def read_ledger(stack: Stack) -> list[dict[str, Any]]:
    """Return everything that the sandbox says it served."""
    entries: list[dict[str, Any]] = []
    while True:
        after = entries[-1]["seq"] if entries else 0
        page = httpx.get(
            f"{stack.sandbox_url}/sandbox/ledger", params={"after": after, "limit": 1000}, timeout=30, trust_env=False
        ).json()["data"]
        entries += page
        if not page:
            return entries


def wait_for_outboxes(stack: Stack) -> None:
    """Return when the usage service has stored everything: then no segment of an outbox has a byte.

    Raises AssertionError when nothing was stored for a while.
    """
    waiting, since = -1, time.monotonic()
    for _ in bounded(_DRAIN_SECONDS):
        left = sum(path.stat().st_size for path in segments(stack.state))
        if left == 0:
            return
        if left != waiting:
            waiting, since = left, time.monotonic()
        assert time.monotonic() - since < _STANDSTILL_SECONDS, f"{left} bytes stay in the outboxes"
    raise AssertionError(f"{waiting} bytes are still in the outboxes")


def run(state: Path, *, requests: int, kills: int, seed: int, bit_flips: bool = False) -> Report:
    """Run a stack, hammer it, wait until everything is stored, stop it, and compare."""
    flips: list[Flip] = []
    with running_stack(state, {"TURNPIKE_LOG_LEVEL": "warning"}) as stack:
        hit = asyncio.run(hammer(stack, requests=requests, kills=kills, seed=seed, flips=flips if bit_flips else None))
        stack.wait_until_ready()
        wait_for_outboxes(stack)
        ledger = read_ledger(stack)
    return compare(stack, ledger=ledger, sent=requests, kills=hit, flips=flips)


def main() -> None:
    """Run from the command line; exits with 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=21)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bit-flips", action="store_true", help="also flip a bit of chat's outbox in each round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        report = run(
            Path(state) / "state",
            requests=options.requests,
            kills=options.kills,
            seed=options.seed,
            bit_flips=options.bit_flips,
        )
    print(report)
    raise SystemExit(1 if report.differences else 0)


if __name__ == "__main__":
    main()
