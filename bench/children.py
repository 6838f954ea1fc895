"""The processes of a run: tied to this one's life, stopped in order, their logs in files."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from deploy.local.tether import tether

# A gateway stops its own children one after the other.
_STOP_SECONDS = 45.0
_SHOWN_LINES = 15


class ChildDied(Exception):
    """A process that should run has ended."""


class Children:
    """Starts processes; leaving it as a context manager stops them, the last one first."""

    def __init__(self, *, logs: Path, directory: Path) -> None:
        self._logs = logs
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        """Return the children."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all of them."""
        running = [process for process in reversed(self._processes.values()) if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a process, by default in the run's directory and environment; a SIGKILL of this one ends it, too."""
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                cwd=directory or self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(tether, signal.SIGKILL, parent=os.getpid()),  # noqa: PLW1509 - forks in the main thread
            )

    def pid(self, name: str) -> int:
        """Return the process id."""
        return self._processes[name].pid

    def check(self) -> None:
        """Raise ChildDied, with the end of its log, when a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                lines = self._log(name).read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
                raise ChildDied(f"{name} ended with status {process.returncode}:\n" + "\n".join(lines))

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
