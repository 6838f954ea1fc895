"""A stack of trivial children under the real runner: `python fake_stack.py <state> <name>=<shell command> ...`.

`<name>:<port>` among the arguments says that the child listens on the port.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from deploy.local.config import WELCOME
from deploy.local.preflight import Listener
from deploy.local.processes import Program, supervisor_config
from deploy.local.runner import run
from deploy.local.tether import tether


def main(state: Path, arguments: list[str]) -> int:
    """Run the children until one of them or a signal ends the stack."""
    children = [argument for argument in arguments if "=" in argument]
    ports = [argument.split(":") for argument in arguments if "=" not in argument]
    tether(signal.SIGTERM, parent=os.getppid())
    (state / "logs").mkdir(parents=True, exist_ok=True)
    programs = [
        Program(name, ["/bin/sh", "-c", command], stop_last=turn, once=name == WELCOME)
        for turn, (name, command) in enumerate(child.split("=", 1) for child in children)
    ]
    config = state / "supervisord.conf"
    config.write_text(supervisor_config(programs, state=state, directory=state))
    listeners = [Listener(name, int(port), "TURNPIKE_PORT_BASE", child=name) for name, port in ports]
    return run(config, state=state, environments={each.name: os.environ for each in programs}, listeners=listeners)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
