"""What processes have used so far: CPU time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Memory:
    """A process's memory in MiB: all that is resident (RSS), and the part that is its own (USS).

    Of a page that ``n`` processes share, ``proportional`` counts one n-th (PSS), so that it can be summed up.
    """

    resident: float
    own: float
    proportional: float


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU seconds that each process has used, in user and kernel together."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return {name: time.user + time.system for name, time in times.items()}


def used(before: Mapping[str, float], after: Mapping[str, float], *, per: float) -> dict[str, float]:
    """Return the difference for each process, divided by ``per``."""
    return {name: (after[name] - before[name]) / per for name in after}


def memory(pids: Mapping[str, int]) -> dict[str, Memory]:
    """Return the memory of each process."""
    infos = {name: psutil.Process(pid).memory_full_info() for name, pid in pids.items()}
    return {name: Memory(info.rss / 2**20, info.uss / 2**20, info.pss / 2**20) for name, info in infos.items()}


def slope(values: Sequence[float]) -> float:
    """Return the least-squares growth from one value to the next."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    over = sum((index - middle) * (value - mean) for index, value in enumerate(values))
    return over / sum((index - middle) ** 2 for index in range(len(values)))
