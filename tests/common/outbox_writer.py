"""Forks writers of an outbox and kills them: python -m tests.common.outbox_writer <directory> <rounds> <seed>.

A program of its own, because a test process with threads must not fork. A writer reports through a pipe what the outbox
has taken, so that the parent knows what a kill may not lose. Prints a JSON object with what was reported.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

from common.metering import event_proto
from common.metering.outbox import DiskOutbox
from common.metering.record import Outcome
from tests.common.builders import number_of, usage_record

_LINE = 24


def write(directory: Path, *, first: int, random_: random.Random, report: int) -> None:
    """Intend, settle, read and release until killed; report each step once it is done."""
    outbox = DiskOutbox(directory, segment_bytes=2_000)
    still_open: list[int] = []
    number = first
    while True:
        choice = random_.random()
        if choice < 0.5 or not still_open:
            outbox.intend(usage_record(number))
            _say(report, "intended", number)
            still_open.append(number)
            number += 1
        elif choice < 0.9:
            settled = still_open.pop(random_.randrange(len(still_open)))
            record = usage_record(settled)
            record.outcome = Outcome.COMPLETED
            outbox.settle(record)
            _say(report, "settled", settled)
        elif choice < 0.95:
            outbox.sync()
        else:
            events, position = outbox.read(limit=random_.randrange(1, 20))
            for data in events:
                record = event_proto.decode(data)
                # Said before it is released, as the usage service has an event before it is.
                kind = "crashed" if record.outcome is Outcome.CRASHED else "completed"
                _say(report, kind, number_of(record))
            outbox.release(position)


def _say(pipe: int, what: str, number: int) -> None:
    os.write(pipe, f"{what} {number}".ljust(_LINE).encode())


def one_round(directory: Path, *, first: int, random_: random.Random) -> list[tuple[str, int]]:
    """Fork a writer, kill it after a random number of steps, and return what it reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        write(directory, first=first, random_=random_, report=writer)
    os.close(writer)
    reported = b""
    wanted = _LINE * random_.randrange(150)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while len(reported) < wanted and (data := pipe.read(wanted - len(reported))):
            reported += data
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reported += pipe.read()
    lines = [reported[start : start + _LINE].decode().split() for start in range(0, len(reported), _LINE)]
    return [(what, int(number)) for what, number in lines]


def main(directory: Path, rounds: int, seed: int) -> None:
    """Run the rounds one after another in the same directory, and print what all of them reported."""
    random_ = random.Random(seed)
    told: dict[str, list[int]] = {"intended": [], "settled": [], "crashed": [], "completed": []}
    for number in range(rounds):
        for what, event in one_round(directory, first=(number + 1) * 100_000, random_=random_):
            told[what].append(event)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
