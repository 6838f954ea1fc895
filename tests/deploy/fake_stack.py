"""A stack of trivial children under the real runner: `python fake_stack.py <state> <name>=<shell command> ...`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from deploy.local.processes import WELCOME, Program, supervisor_config
from deploy.local.runner import run
from deploy.local.tether import tether


def main(state: Path, children: list[str]) -> int:
    """Run the children until one of them or a signal ends the stack."""
    tether(signal.SIGTERM, parent=os.getppid())
    (state / "logs").mkdir(parents=True, exist_ok=True)
    programs = [
        Program(name, ["/bin/sh", "-c", command], stop_last=turn, once=name == WELCOME)
        for turn, (name, command) in enumerate(child.split("=", 1) for child in children)
    ]
    config = state / "supervisord.conf"
    config.write_text(supervisor_config(programs, state=state, directory=state))
    return run(config, state=state)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
