"""Flips bits in the outbox of a service that was killed."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.metering.journal import EVENT, Record, scan
from common.metering.journal_record import usage_record
from tests.e2e.stack import Stack

_END_SECONDS = 30


@dataclass(frozen=True)
class Flip:
    """A flipped bit: of which request's record, and whether that was an intent or an event."""

    request_id: str
    kind: str


def segments(state: Path) -> list[Path]:
    """Return the segments of all outboxes of a stack."""
    return sorted((state / "outbox").glob("*/*.journal"))


def kill_and_flip(stack: Stack, *, randomness: random.Random) -> list[Flip]:
    """Kill chat, and flip a bit of a record in its outbox before it is back; nothing when the outbox is empty."""
    pid = stack.pid("chat")
    if pid is None:
        return []
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    process.wait(_END_SECONDS)
    # A new process needs some hundred milliseconds until it reads its outbox.
    found = [
        (path, record)
        for path in segments(stack.state)
        for record in scan(path, start=0, end=path.stat().st_size)
        if path.parent.name == "chat" and isinstance(record, Record)
    ]
    if not found:
        return []
    path, record = randomness.choice(found)
    place = randomness.randrange(record.start, record.end)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << randomness.randrange(8)]))
    request_id = usage_record(record).request_id
    return [Flip(request_id, "events" if record.kind == EVENT else "intents")]
