"""Supervises the children of a stack: what ``python -m deploy.local`` becomes when it has prepared everything.

The starter loads the settings of every service, JWTs and Envoy's template: 69 MiB, which it needs for a second. The
process that stays begins anew with supervisord alone: 26 MiB.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.local.children import Listener


@dataclass(frozen=True)
class Supervision:
    """What is supervised; ``environments`` holds secrets, so it goes from one process to the next in memory only."""

    config: Path
    state: Path
    lock: int
    """The descriptor of the state directory's lock, which is kept until the stack ends."""
    listeners: Sequence[Listener]
    environments: Mapping[str, Mapping[str, str]] = field(repr=False)


def become_supervisor(supervision: Supervision) -> int:
    """Replace this process by one that supervises; its id, its parent and its ties stay the same.

    Where memory cannot be handed on, supervise in this process and return the exit status. Linux can, but not every
    Python on it: many of uv's and conda's are built for a C library without memfd_create.
    """
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        plan = os.memfd_create("supervision", 0)
        with os.fdopen(plan, "wb", closefd=False) as file:
            file.write(json.dumps(asdict(supervision), default=str).encode())
        os.set_inheritable(supervision.lock, True)  # noqa: FBT003 - it takes no keyword
        # Ctrl-C waits until the next program can take it; Python would print a traceback while it starts.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        os.execv(sys.executable, [sys.executable, "-m", "deploy.local.supervise", str(plan)])  # noqa: S606 - no shell
    return supervise(supervision)


def read(plan: int) -> Supervision:
    """Return what ``become_supervisor`` has left in the descriptor, and close that."""
    with os.fdopen(plan, "rb") as file:
        file.seek(0)
        told = json.load(file)
    # The children have no use for it.
    os.set_inheritable(told["lock"], False)  # noqa: FBT003 - it takes no keyword
    return Supervision(
        config=Path(told["config"]),
        state=Path(told["state"]),
        lock=told["lock"],
        listeners=[Listener(**each) for each in told["listeners"]],
        environments=told["environments"],
    )


def supervise(supervision: Supervision) -> int:
    """Supervise until the stack ends; returns the exit status."""
    from deploy.local.runner import run  # noqa: PLC0415 - the starter does without it

    return run(
        supervision.config,
        state=supervision.state,
        environments=supervision.environments,
        listeners=supervision.listeners,
    )


def main(plan: int) -> int:
    """Go on where ``become_supervisor`` ended."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        return supervise(read(plan))
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
