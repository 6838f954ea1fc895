"""What an idle stack holds in memory: ``python -m bench.idle`` prints it for each process of ``make up``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.children import Children
from bench.cost import Memory, memory
from bench.plan import Plan
from bench.report import Row, as_text, machine
from bench.stack import GATEWAY_PORTS, NO_CHROMA, Stack, start_gateway
from deploy.local.config import REPOSITORY
from tests.ports import reserved_ports

_IDLE_SECONDS: Final = 5.0
_SERVICE_MIB_AT_MOST: Final = 80.0
_STACK_MIB_AT_MOST: Final = 700.0
_NO_LIMIT: Final = ("usage", "envoy", "starter")
"""Processes of a stack that are no Python service with a limit of its own."""


async def idle_memory(stack: Stack, _plan: Plan) -> list[Row]:
    """Look at the memory of a fresh stack beside the one that runs."""
    return _rows(await _idle(stack.gateway.checkout))


async def _idle(checkout: Path) -> dict[str, Memory]:
    """Start a stack with its defaults, but without Chroma's server, and measure it before anybody uses it."""
    with tempfile.TemporaryDirectory(prefix="turnpike-bench-idle-") as directory:
        path = Path(directory)
        with reserved_ports(GATEWAY_PORTS) as ports, Children(logs=path, directory=path) as children:
            gateway = start_gateway(
                children, "idle", checkout=checkout, ports=iter(ports), directory=path, settings=NO_CHROMA
            )
            await gateway.wait_until_ready()
            await asyncio.sleep(_IDLE_SECONDS)
            return memory(gateway.processes())


def _rows(found: Mapping[str, Memory]) -> list[Row]:
    resident = {name: each.resident for name, each in sorted(found.items())}
    largest = max((name for name in resident if name not in _NO_LIMIT), key=resident.__getitem__)
    whole = sum(resident.values())
    return [
        Row(
            f"idle memory of the largest Python service but usage ({largest}), resident MiB",
            f"{resident[largest]:.0f}",
            target=f"<= {_SERVICE_MIB_AT_MOST:g}",
            passed=resident[largest] <= _SERVICE_MIB_AT_MOST,
            raw=(", ".join(f"{name} {value:.0f}" for name, value in resident.items()),),
        ),
        Row(
            "idle memory of the whole stack without Chroma's server, resident MiB",
            f"{whole:.0f}",
            target=f"<= {_STACK_MIB_AT_MOST:g}",
            passed=whole <= _STACK_MIB_AT_MOST,
            raw=(f"own (USS) {sum(each.own for each in found.values()):.0f} MiB",),
        ),
    ]


async def _main() -> int:
    """Print each process's memory; unlike in a benchmark, no other stack shares its libraries' pages."""
    print(machine())
    found = await _idle(REPOSITORY)
    print(f"{'MiB':10} {'RSS':>6} {'PSS':>6} {'USS':>6}")
    for name, each in sorted(found.items()):
        print(f"{name:10} {each.resident:6.0f} {each.proportional:6.0f} {each.own:6.0f}")
    sums = [sum(getattr(each, of) for each in found.values()) for of in ("resident", "proportional", "own")]
    print(f"{'all':10} " + " ".join(f"{value:6.0f}" for value in sums))
    rows = _rows(found)
    print("\n".join(as_text(row) for row in rows))
    return 1 if any(row.passed is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
