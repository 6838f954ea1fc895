"""The children of a stack, and the supervisor configuration that runs them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.children import BAD_SETTING_STATUS, WELCOME, log_file
from deploy.local.config import (
    CHROMA_SERVER,
    ENVOY,
    HOST,
    SANDBOX,
    SERVICES,
    SHUTDOWN_GRACE_SECONDS,
    LocalSettings,
)

# The grace, and time to hand over what was metered: a child that is killed leaves that for its next start.
_STOP_SECONDS = SHUTDOWN_GRACE_SECONDS + 4
_LOG_BYTES = 10 * 1024 * 1024
_OLD_LOGS = 2


@dataclass(frozen=True)
class Program:
    """A child: how it is started, and when it is stopped."""

    name: str
    command: Sequence[str]
    stop_last: int
    """Children with a higher number are stopped later; equal ones together."""
    once: bool = False
    """Whether the child ends by itself, and its output belongs on the terminal rather than in a log."""


def programs(
    settings: LocalSettings, *, envoy: Path, envoy_config: Path, chroma: Path | None, state: Path
) -> list[Program]:
    """List the children of a stack. What meters stops first, so that it can still hand over its events; Envoy last.

    ``chroma`` is the Chroma server's command, None when a server elsewhere was named.
    """
    turns = {service.name: service.stop_last for service in SERVICES}
    if settings.uses_sandbox:
        turns[SANDBOX] = 2
    python = [sys.executable, "-m"]
    services = [Program(name, [*python, f"services.{name}"], stop_last=turn) for name, turn in turns.items()]
    servers = []
    if chroma is not None:
        command = _chroma_command(chroma, port=settings.ports.chroma_server, data=state / "chroma")
        servers.append(Program(CHROMA_SERVER, command, stop_last=2))
    return [
        *servers,
        *services,
        Program(ENVOY, _envoy_command(envoy, envoy_config, settings.envoy_concurrency), stop_last=3),
        Program(WELCOME, [*python, "deploy.local.welcome"], stop_last=0, once=True),
    ]


def _chroma_command(command: Path, *, port: int, data: Path) -> list[str]:
    return [str(command), "run", "--host", HOST, "--port", str(port), "--path", str(data)]


def _envoy_command(envoy: Path, config: Path, concurrency: int) -> list[str]:
    # Hot restart shares memory by a number for the whole machine: two stacks would meet there.
    flags = ["--disable-hot-restart", "--log-level", "warning", "--concurrency", str(concurrency)]
    return [str(envoy), "-c", str(config), *flags]


def supervisor_config(children: Sequence[Program], *, state: Path, directory: Path) -> str:
    """Return supervisord's configuration for the children, run in ``directory`` with their logs under ``state``.

    It holds no environment: what is in there is secret, and the runner keeps it in memory.
    """
    common = f"""\
[supervisord]
nodaemon=true
silent=true
logfile={_plain(state / "logs" / "supervisord.log")}
logfile_maxbytes={_LOG_BYTES}
logfile_backups={_OLD_LOGS}
pidfile={_plain(state / "supervisord.pid")}
childlogdir={_plain(state / "logs")}
minfds=64
minprocs=16
nocleanup=true
"""
    groups: dict[int, list[str]] = {}
    for child in children:
        groups.setdefault(child.stop_last, []).append(child.name)
    sections = [_program(child, state=state, directory=directory) for child in children]
    # Supervisor stops groups one after the other from the highest priority, and a group's programs together.
    sections += [
        f"[group:stop{turn}]\nprograms={','.join(names)}\npriority={999 - turn}\n" for turn, names in groups.items()
    ]
    return "\n".join([common, *sections])


def _program(child: Program, *, state: Path, directory: Path) -> str:
    # Supervisor expands the names of logs twice.
    log = "NONE" if child.once else _plain(_plain(log_file(state, child.name)))
    # startsecs=0: a killed child starts again at once and however often; the runner stops one that fails by itself.
    return f"""\
[program:{child.name}]
command={_plain(shlex.join(child.command))}
directory={_plain(directory)}
autorestart={"false" if child.once else "unexpected"}
exitcodes={0 if child.once else BAD_SETTING_STATUS}
startsecs=0
startretries=1000
stopwaitsecs={_STOP_SECONDS}
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes={_LOG_BYTES}
stdout_logfile_backups={_OLD_LOGS}
stdout_events_enabled={"true" if child.once else "false"}
"""


def _plain(value: object) -> str:
    """Write the value so that supervisor expands nothing in it."""
    return str(value).replace("%", "%%")
