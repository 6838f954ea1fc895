"""Trivial children under the real runner: `python fake_stack.py <state> <name>=<shell command> ...`.

`<name>:<port>` among the arguments says that the child listens on the port.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from deploy.local.children import WELCOME, Listener
from deploy.local.config import HOST
from deploy.local.processes import Program, supervisor_config
from deploy.local.state import lock
from deploy.local.supervise import Supervision, become_supervisor
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
    listeners = [Listener(name, HOST, int(port), "TURNPIKE_PORT_BASE", child=name) for name, port in ports]
    environments = {each.name: dict(os.environ) for each in programs}
    return become_supervisor(
        Supervision(config, state, lock=lock(state), listeners=listeners, environments=environments)
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
