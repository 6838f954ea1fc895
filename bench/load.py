"""A load: what one run of the load generator does, and what it found; both travel as JSON between two processes."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median

import msgspec

from deploy.local.tether import tether

_PATIENCE_SECONDS = 300.0


class LoadFailed(Exception):
    """An answer was wrong, so the numbers mean nothing."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and how often: for so many ``seconds``, ``total`` times, or in ``waves``.

    In a wave all connections ask at the same moment, and the next begins when the last answer is complete.
    """

    port: int
    credential: str = "none"
    connections: int
    seconds: float = 0.0
    total: int = 0
    waves: int = 0
    events: int = 0
    """The events of each answer; 0 for answers that are no streams."""
    rate: int = 0
    """Events a second; 0 for full speed."""
    body_bytes: int = 0
    """About how large the body of a request without a stream is; 0 for a short one."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a load found; times are in seconds, ``percentiles`` of them by name: p50, p90, p99."""

    sent: int
    """Requests, all of which were answered."""
    answers: int
    """Answers within the time, if the load had one."""
    seconds: float
    first_byte: Mapping[str, float]
    latency: Mapping[str, float]
    waves: Sequence[float] = ()
    """How long each wave took."""

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99 and max by the nearest rank."""
    ordered = sorted(values)
    ranks = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
    return {name: ordered[max(0, math.ceil(share * len(ordered)) - 1)] for name, share in ranks.items()}


async def run(load: Load) -> Found:
    """Run the load in a process of its own; raises LoadFailed when any answer was wrong."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.client", msgspec.json.encode(load).decode()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(tether, signal.SIGKILL, parent=os.getpid()),
    )
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise LoadFailed(f"{load} did not end within {_PATIENCE_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise LoadFailed(f"{load}: {errors.decode(errors='replace').strip()}")
    return msgspec.json.decode(output, type=Found)


def spread(values: Sequence[float], *, digits: int = 2) -> str:
    """Write the median and, in parentheses, the least and the greatest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
