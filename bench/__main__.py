"""Measures the gateway: python -m bench, or make bench. The exit status is 1 when a target was missed."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvloop

from bench.bodies import large_bodies
from bench.children import ChildDied
from bench.comparison import Comparison, measure
from bench.footprint import cpu, flat_memory
from bench.idle import idle_memory
from bench.load import LoadFailed
from bench.passed_through import chroma, ocr
from bench.plan import QUICK, Plan
from bench.report import EXCLUDED, SHARED, Row, as_markdown, as_text, machine
from bench.revocation import revocation, revocation_after_kill
from bench.speed import added_latency, throughput
from bench.stack import Stack, running_stack
from bench.stored import stored
from bench.streams import first_byte, full_speed, many_streams, paced
from bench.usage import usage
from deploy.local.refused import Refused

Measure = Callable[[Stack, Plan], Awaitable[list[Row]]]
MEASURES: Final[Mapping[str, Comparison | Measure]] = {
    "throughput": throughput,
    "latency": added_latency,
    "first_byte": first_byte,
    "streams": many_streams,
    "full_speed": full_speed,
    "paced": paced,
    "bodies": large_bodies,
    "cpu": cpu,
    "idle": idle_memory,
    "memory": flat_memory,
    "revocation": revocation,
    "revocation_after_kill": revocation_after_kill,
    "ocr": ocr,
    "chroma": chroma,
    "stored": stored,
    "usage": usage,
}
_COMPARED: Final = tuple(name for name, each in MEASURES.items() if isinstance(each, Comparison))
_WARM_SECONDS: Final = 1.0


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), help="measure these only")
    parser.add_argument(
        "--against",
        type=lambda text: Path(text).resolve(),
        metavar="CHECKOUT",
        help=f"another built checkout, measured in turn with this one in: {', '.join(_COMPARED)} (all by default)",
    )
    parser.add_argument("--rounds", type=int, help="interleaved rounds of each comparison (an odd number is best)")
    parser.add_argument("--quick", action="store_true", help="a look in between: a third of the time, and noisier")
    parser.add_argument("--markdown", action="store_true", help="print a table at the end")
    return parser.parse_args(arguments)


async def main(arguments: argparse.Namespace) -> int:
    """Measure and report; returns 1 when a target was missed or the numbers mean nothing."""
    plan = QUICK if arguments.quick else Plan()
    if arguments.rounds:
        plan = replace(plan, rounds=arguments.rounds)
    # Cancelled rather than killed, so that the processes are stopped and the directory goes.
    task = asyncio.ensure_future(_measure(plan, names=_names(arguments), against=arguments.against))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        rows = await task
    except (LoadFailed, ChildDied, Refused) as error:
        print(f"turnpike bench: {error}", file=sys.stderr)
        return 1
    if arguments.markdown:
        print("\n" + as_markdown(rows))
    return 1 if any(row.passed is False for row in rows) else 0


def _names(arguments: argparse.Namespace) -> Sequence[str]:
    """Return what is measured; an older checkout is there to be compared with, so the rest is left out by default."""
    chosen = arguments.only or (_COMPARED if arguments.against else MEASURES)
    return [name for name in MEASURES if name in chosen]


async def _measure(plan: Plan, *, names: Sequence[str], against: Path | None) -> list[Row]:
    begun = time.monotonic()
    print(f"{machine()}\nexcluded: {EXCLUDED}\nshared: {SHARED}\n{plan}\n", flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="turnpike-bench-") as directory:
        async with running_stack(Path(directory), against=against, chroma="chroma" in names) as stack:
            for side in (*stack.gateways, stack.bare, stack.bare_on_runtime, stack.plain):
                await side.load(connections=32, seconds=_WARM_SECONDS)
            for name in names:
                what = MEASURES[name]
                for row in await (measure(what, stack, plan) if isinstance(what, Comparison) else what(stack, plan)):
                    rows.append(row)
                    print(as_text(row), flush=True)
    print(f"\n{time.monotonic() - begun:.0f} s")
    return rows


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        sys.exit(uvloop.run(main(parsed(sys.argv[1:]))))
    sys.exit(130)
