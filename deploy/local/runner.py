"""Runs supervisord in this process, with what a developer's stack needs on top: ties, speed, and plain lines."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supervisor import events  # type: ignore[import-untyped]
from supervisor.medusa.asyncore_25 import ExitNow  # type: ignore[import-untyped]
from supervisor.options import ServerOptions  # type: ignore[import-untyped]
from supervisor.states import SupervisorStates  # type: ignore[import-untyped]
from supervisor.supervisord import Supervisor  # type: ignore[import-untyped]

from deploy.local.children import BAD_SETTING_STATUS, WELCOME, Listener, log_file
from deploy.local.terminal import say, write
from deploy.local.tether import tether

_QUICK_SECONDS = 5.0
_QUICK_FAILURES = 3
_SHOWN_LINES = 12
_KILLED = -1
_CLEAR = "turnpike"
_SIGNALS = 6
_OPEN_FILES = 65_536


def run(
    config: Path,
    *,
    state: Path,
    environments: Mapping[str, Mapping[str, str]],
    listeners: Sequence[Listener] = (),
) -> int:
    """Run the children that the supervisor configuration names until a signal, or until one cannot run.

    ``environments`` holds the whole environment of each child, ``listeners`` the ports on which children listen.

    Returns the exit status: 0 after SIGINT, SIGTERM or SIGHUP, 2 when a child refused its settings, 1 when a child
    kept failing or the stack did not become healthy. Must be called in the main thread of a process without others.
    """
    _allow_open_files()
    options = _Options(environments)
    options.realize(["-n", "-c", str(config)])
    options.first = True
    options.test = False
    runner = Runner(options, state=state, listeners=listeners)
    try:
        runner.main()
    except ExitNow:
        pass
    finally:
        options.close_logger()
    return runner.status


class _Options(ServerOptions):  # type: ignore[misc]
    """Supervisor's options, whose children have environments of their own and die with the runner."""

    def __init__(self, environments: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__()
        self._runner = os.getpid()
        self._environments = environments

    def setpgrp(self) -> None:
        """Called by supervisor in the child, first thing after the fork."""
        super().setpgrp()
        tether(signal.SIGKILL, parent=self._runner)

    def execve(self, filename: str, argv: list[str], env: Mapping[str, str]) -> None:
        """Called by supervisor in the child, last thing; ``env`` is the runner's own with the child's name."""
        super().execve(filename, argv, dict(self._environments[env["SUPERVISOR_PROCESS_NAME"]]))

    def setsignals(self) -> None:
        """Take supervisor's signals, but stay deaf to SIGHUP under nohup."""
        hangup = signal.getsignal(signal.SIGHUP)
        super().setsignals()
        if hangup == signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)


class _Wake:
    """Ends supervisor's poll, which Python would otherwise resume for up to a second after a signal."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()
        os.set_blocking(self.reading, False)
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(self.reading, 4096)

    def handle_error(self) -> None:
        """Called in an exception's handler; a wake that was missed costs a second at most."""


class Runner(Supervisor):  # type: ignore[misc]
    """supervisord that restarts at once, says in one line what happened, and ends when going on is pointless."""

    def __init__(self, options: Any, *, state: Path, listeners: Sequence[Listener]) -> None:
        super().__init__(options)
        self.status = 0
        self._state = state
        self._listeners = listeners
        self._ready = False
        self._quick_failures: dict[str, int] = {}
        self._log_starts: dict[str, int] = {}

    def runforever(self) -> None:
        """Supervise until told to stop; supervisor calls this after it has cleared all event handlers."""
        events.subscribe(events.ProcessStateStartingEvent, self._on_start)
        events.subscribe(events.ProcessStateExitedEvent, self._on_exit)
        events.subscribe(events.ProcessLogStdoutEvent, self._on_output)
        wake = _Wake()
        self.options.get_socket_map()[wake.reading] = wake
        # Without a child that waits for the others there is nothing to wait for.
        self._ready = all(WELCOME not in group.processes for group in self.process_groups.values())
        # Supervisor would first wait a second for something to happen.
        self._start_what_is_due()
        super().runforever()

    def handle_signal(self) -> None:
        """Handle all signals that have come, then start again what died, rather than each in a later round."""
        was = self.options.mood
        for _ in range(_SIGNALS):
            super().handle_signal()
        if self.options.mood < SupervisorStates.RUNNING:
            # SIGHUP means that the terminal was closed: nobody is left to reload for.
            self.options.mood = SupervisorStates.SHUTDOWN
            if was == SupervisorStates.RUNNING:
                say("stopping")
        self._start_what_is_due()

    def _start_what_is_due(self) -> None:
        for group in sorted(self.process_groups.values()):
            group.transition()

    def _on_start(self, event: Any) -> None:
        name = event.process.config.name
        path = log_file(self._state, name)
        self._log_starts[name] = path.stat().st_size if path.exists() else 0

    def _on_output(self, event: Any) -> None:
        write(event.data)

    def _on_exit(self, event: Any) -> None:
        process, name = event.process, event.process.config.name
        if name == WELCOME:
            self._ready = process.exitstatus == 0
            if process.exitstatus == _KILLED:
                say("what waits for the stack to be healthy was killed")
            if not self._ready:
                self._end(1)
        elif process.exitstatus == BAD_SETTING_STATUS:
            self._give_up(name, "refused to start", status=BAD_SETTING_STATUS)
        elif process.exitstatus != _KILLED and not self._ready:
            # What ends by itself before the stack is ready does so because of a setting, and would again.
            self._give_up(name, f"ended with status {process.exitstatus}", status=1)
        elif self._keeps_failing(process):
            self._give_up(name, f"ended {_QUICK_FAILURES} times right after its start", status=1)
        elif self.options.mood == SupervisorStates.RUNNING:
            how = "was killed" if process.exitstatus == _KILLED else f"exited with status {process.exitstatus}"
            say(f"{name} {how}: starting it again")

    def _keeps_failing(self, process: Any) -> bool:
        """Count exits soon after the start; once the stack is ready, those by signal do not count: somebody wants them.

        A status of 0 counts: Chroma's server has it, too, when it cannot listen.
        """
        name = process.config.name
        wanted = self._ready and process.exitstatus == _KILLED
        failed = not wanted and process.laststop - process.laststart < _QUICK_SECONDS
        self._quick_failures[name] = self._quick_failures.get(name, 0) + 1 if failed else 0
        return self._quick_failures[name] >= _QUICK_FAILURES

    def _give_up(self, name: str, what: str, *, status: int) -> None:
        if self.options.mood != SupervisorStates.RUNNING:
            return
        taken = [problem for each in self._listeners if each.child == name and (problem := each.problem())]
        lines = [f"turnpike: {problem}" for problem in taken] or self._last_words(name)
        # What a service says about its settings needs no introduction; a traceback does.
        if not all(line.startswith(_CLEAR) for line in lines) or not lines:
            lines.insert(0, f"turnpike: {name} {what}; its last lines, from {log_file(self._state, name)}:")
        write("".join(f"{line}\n" for line in lines).encode(), descriptor=2)
        self._end(status)

    def _last_words(self, name: str) -> list[str]:
        """Return what the child wrote since its last start: its own clear lines if there are any."""
        try:
            with log_file(self._state, name).open("rb") as file:
                # A rotated log is shorter than it was.
                file.seek(min(self._log_starts.get(name, 0), file.seek(0, os.SEEK_END)))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        clear = [line for line in lines if line.startswith(_CLEAR)]
        return clear or [line for line in lines if line.strip()][-_SHOWN_LINES:]

    def _end(self, status: int) -> None:
        self.status = self.status or status
        self.options.mood = SupervisorStates.SHUTDOWN


def _allow_open_files() -> None:
    """Raise the soft limit on open files: each stream holds several, and shells allow 1,024 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
