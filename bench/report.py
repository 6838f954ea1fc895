"""What a run reports: rows with a target beside each, and what was not measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

EXCLUDED = (
    "TLS, the network (everything is on loopback, on one machine), a real provider's latency, several processes or "
    "nodes of a service, a ClickHouse server (usage is embedded chDB), cold starts, OpenTelemetry export"
)
SHARED = "the load generator and the upstream share the machine's cores with what is measured"


@dataclass(frozen=True, slots=True)
class Row:
    """A result; ``passed`` is None where there is no target, ``raw`` holds the numbers behind the value.

    ``before`` is the other checkout's value in the same run, ``of_before`` the ratio to it, round by round.
    """

    name: str
    value: str
    target: str = ""
    passed: bool | None = None
    raw: Sequence[str] = ()
    before: str = ""
    of_before: str = ""

    @property
    def verdict(self) -> str:
        """Say how the value compares with the target."""
        return {True: "PASS", False: "MISS", None: "    "}[self.passed]


def machine() -> str:
    """Describe the machine in a line."""
    gigabytes = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {gigabytes:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, load {load:.1f} before the run"
    )


def as_text(row: Row) -> str:
    """Write a row for a terminal."""
    target = f"   target {row.target}" if row.target else ""
    before = [f"before {row.before}, of before {row.of_before}"] if row.before else []
    lines = [*before, *row.raw]
    return "\n".join([f"{row.verdict}  {row.name}: {row.value}{target}", *(f"        {line}" for line in lines)])


def as_markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a table."""
    lines = ["| | measured | target | result | before | of before | raw |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.value} | {row.target} | {row.verdict.strip()} | {row.before} | {row.of_before} | "
        f"{'<br>'.join(row.raw)} |"
        for row in rows
    ]
    return "\n".join(lines)
