"""A real supervisord with trivial children: what dies comes back, and nothing outlives the runner."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from deploy.local.config import REPOSITORY
from deploy.local.refused import Refused
from deploy.local.state import lock
from tests.e2e.stack import bounded
from tests.tied import tied

WAIT_SECONDS = 60.0
FAKE_STACK = Path(__file__).with_name("fake_stack.py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ties to a parent's life are Linux's")


class Events:
    """A pipe with a name, to which children write lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._lines: list[str] = []
        self._rest = ""

    def next(self) -> list[str]:
        """Return the words of the next line; raises TimeoutError."""
        while not self._lines:
            readable, _, _ = select.select([self._descriptor], [], [], WAIT_SECONDS)
            if not readable:
                raise TimeoutError("no child wrote anything")
            *self._lines, self._rest = (self._rest + os.read(self._descriptor, 65536).decode()).split("\n")
        return self._lines.pop(0).split()

    def close(self) -> None:
        os.close(self._descriptor)


class Death:
    """Watches a process that is no child of this one; a zombie counts as dead."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def came(self, *, seconds: float = WAIT_SECONDS) -> bool:
        """Wait for it."""
        with os.fdopen(self._descriptor, "rb") as watched:
            return bool(select.select([watched], [], [], seconds)[0])


Start = Callable[..., subprocess.Popen[bytes]]
WAITS = "welcome=exec sleep 1000"
"""A child that waits for the others, and so keeps the stack from being ready."""


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Events]:
    pipe = Events(tmp_path / "events")
    yield pipe
    pipe.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the fake stack; the test's end, or its death, ends it."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*children: str, below: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        command = [*below, sys.executable, str(FAKE_STACK), str(tmp_path / "state"), *children]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(tied(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=WAIT_SECONDS)


def lasting(name: str, events: Events) -> str:
    """Return a child that reports its process id and then does nothing for long."""
    return f"{name}=echo {name} $$ > {events.path}; exec sleep 1000"


def pids(events: Events, count: int) -> dict[str, int]:
    return {name: int(pid) for name, pid in (events.next() for _ in range(count))}


def text(process: subprocess.Popen[bytes]) -> str:
    return process.communicate(timeout=WAIT_SECONDS)[0].decode()


def test_a_killed_child_is_back_at_once_however_often(start: Start, events: Events) -> None:
    stack = start(lasting("chat", events))
    pid = pids(events, 1)["chat"]
    began = time.monotonic()
    for _ in range(20):
        os.kill(pid, signal.SIGKILL)
        again = pids(events, 1)["chat"]
        assert again != pid
        pid = again
    # Supervisor alone would need up to a second each time.
    assert time.monotonic() - began < 10
    stack.send_signal(signal.SIGTERM)
    assert text(stack).count("turnpike: chat was killed: starting it again\n") == 20


def test_a_child_that_exits_is_started_again(start: Start, events: Events) -> None:
    stack = start(lasting("chat", events))
    first = pids(events, 1)["chat"]
    os.kill(first, signal.SIGTERM)
    assert pids(events, 1)["chat"] != first
    stack.send_signal(signal.SIGTERM)
    assert text(stack).endswith("turnpike: stopping\n")


def test_sigkill_of_the_runner_leaves_no_orphan(start: Start, events: Events) -> None:
    stack = start(*(lasting(name, events) for name in ("auth", "chat", "usage")))
    deaths = [Death(pid) for pid in pids(events, 3).values()]
    stack.kill()
    assert all(death.came(seconds=5) for death in deaths)


def test_the_state_stays_locked_while_the_runner_lives_and_no_longer(
    start: Start, events: Events, tmp_path: Path
) -> None:
    stack = start(lasting("chat", events))
    child = Death(pids(events, 1)["chat"])
    with pytest.raises(Refused, match="already running"):
        lock(tmp_path / "state")
    stack.kill()
    stack.wait(timeout=WAIT_SECONDS)
    assert child.came()
    os.close(lock(tmp_path / "state"))


def test_what_stays_resident_has_loaded_none_of_what_the_starter_needs(start: Start, events: Events) -> None:
    stack = start(lasting("chat", events))
    pids(events, 1)
    loaded = {Path(each.path).name for each in psutil.Process(stack.pid).memory_maps()}
    assert not {name for name in loaded if name.startswith(("_pydantic_core", "cygrpc", "_rust"))}


def test_sigkill_of_what_started_the_runner_stops_the_stack(start: Start, events: Events, tmp_path: Path) -> None:
    # The shell stays as the parent, as make does.
    shell = start(lasting("chat", events), below=("/bin/sh", "-c", '"$@"; exit $?', "sh"))
    child = Death(pids(events, 1)["chat"])
    runner = Death(int((tmp_path / "state" / "supervisord.pid").read_text()))
    shell.kill()
    assert child.came()
    assert runner.came()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_with_status_0(start: Start, events: Events, number: signal.Signals) -> None:
    stack = start(lasting("auth", events), lasting("chat", events))
    deaths = [Death(pid) for pid in pids(events, 2).values()]
    stack.send_signal(number)
    assert text(stack) == "turnpike: stopping\n"
    assert stack.returncode == 0
    assert all(death.came() for death in deaths)


SAYS_WHEN_IT_STOPS = """\
import signal, sys
def say(word):
    with open(sys.argv[1], "w") as events:
        events.write(f"{sys.argv[2]} {word}\\n")
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
say("started")
signal.sigwait({signal.SIGTERM})
say("stopped")
"""


def test_children_stop_in_turn(start: Start, events: Events, tmp_path: Path) -> None:
    program = tmp_path / "says_when_it_stops.py"
    program.write_text(SAYS_WHEN_IT_STOPS)
    names = ["chat", "usage", "envoy"]
    stack = start(*(f"{name}=exec {sys.executable} {program} {events.path} {name}" for name in names))
    assert sorted(events.next() for _ in names) == sorted([name, "started"] for name in names)
    stack.send_signal(signal.SIGINT)
    assert [events.next() for _ in names] == [[name, "stopped"] for name in names]


def test_a_child_that_refuses_its_settings_ends_the_stack_with_its_line(start: Start, events: Events) -> None:
    line = "turnpike: TURNPIKE_CACHE_SECONDS is wrong"
    stack = start(lasting("chat", events), f"auth=echo starting; echo '{line}' >&2; exit 2")
    assert text(stack) == f"{line}\n"
    assert stack.returncode == 2


def test_a_line_of_an_earlier_start_is_not_shown(start: Start, tmp_path: Path) -> None:
    (tmp_path / "state" / "logs").mkdir(parents=True)
    (tmp_path / "state" / "logs" / "auth.log").write_text("turnpike: an old complaint\n")
    assert text(start("auth=echo 'turnpike: a new complaint'; exit 2")) == "turnpike: a new complaint\n"


def test_a_child_that_cannot_start_ends_the_stack_with_its_last_lines(start: Start) -> None:
    stack = start("usage=echo Traceback; echo 'ImportError: no chdb'; exit 1", WAITS)
    lines = text(stack).splitlines()
    assert stack.returncode == 1
    assert lines[0].startswith("turnpike: usage ended with status 1; its last lines, from /")
    assert lines[1:] == ["Traceback", "ImportError: no chdb"]


@pytest.mark.parametrize(
    ("ends", "how"), [("exit 0", "ended with status 0"), ("kill -9 $$", "ended 3 times right after its start")]
)
def test_a_start_does_not_go_on_without_a_child(start: Start, ends: str, how: str) -> None:
    stack = start(f"chroma-server=echo the reason; {ends}", WAITS)
    assert f"turnpike: chroma-server {how}; its last lines, from /" in text(stack)
    assert stack.returncode == 1


@pytest.mark.parametrize("others", [(WAITS,), ()], ids=["waiting", "ready"])
def test_a_child_whose_port_is_taken_ends_the_stack_with_the_port_and_its_variable(
    start: Start, free_port: int, others: Sequence[str]
) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        # Chroma's server has this status when it cannot listen.
        stack = start("chroma-server=echo 'no such address'; exit 0", f"chroma-server:{free_port}", *others)
        said = text(stack).splitlines()[-1]
    assert said == (
        f"turnpike: port {free_port} (chroma-server) is taken by another process:"
        " set TURNPIKE_PORT_BASE to another port"
    )
    assert stack.returncode == 1


def test_a_child_has_an_environment_of_its_own(start: Start, events: Events) -> None:
    start(f"chat=env | grep -c ^SUPERVISOR_ > {events.path}")
    assert events.next() == ["0"]


def test_once_ready_a_child_gets_two_more_chances(start: Start, events: Events) -> None:
    go = Path(f"{events.path}.go")
    usage_go = Path(f"{events.path}.usage")
    os.mkfifo(go)
    os.mkfifo(usage_go)
    stack = start(
        f"welcome=echo welcome $$ > {events.path}; read line < {go}",
        f"usage=echo usage $$ > {events.path}; read line < {usage_go}; exit 1",
    )
    first = pids(events, 2)
    go.write_text("go\n")
    # The runner reaps the welcome before whatever dies later.
    assert any(not psutil.pid_exists(first["welcome"]) for _ in bounded(WAIT_SECONDS))
    for number in range(3):
        if number:
            events.next()
        usage_go.write_text("go\n")
    output = text(stack)
    assert stack.returncode == 1
    assert output.count("usage exited with status 1: starting it again") == 2
    assert "usage ended 3 times right after its start" in output


def test_the_welcome_reaches_the_terminal(start: Start, events: Events) -> None:
    stack = start(f"welcome=echo 'it is ready'; echo welcome > {events.path}", lasting("chat", events))
    assert {events.next()[0], events.next()[0]} == {"welcome", "chat"}
    stack.send_signal(signal.SIGINT)
    assert text(stack) == "it is ready\nturnpike: stopping\n"


def test_a_stack_that_is_not_healthy_ends(start: Start, events: Events) -> None:
    stack = start(lasting("chat", events), "welcome=echo 'turnpike: not healthy'; exit 1")
    assert text(stack) == "turnpike: not healthy\n"
    assert stack.returncode == 1


def test_a_terminal_that_is_gone_does_not_stop_the_stack(start: Start, events: Events) -> None:
    stack = start(lasting("chat", events))
    pid = pids(events, 1)["chat"]
    assert stack.stdout is not None
    stack.stdout.close()
    for _ in range(2):
        os.kill(pid, signal.SIGKILL)
        pid = pids(events, 1)["chat"]
    stack.send_signal(signal.SIGINT)
    assert stack.wait(timeout=WAIT_SECONDS) == 0


def test_a_python_without_memory_to_hand_on_supervises_in_the_same_process(start: Start, events: Events) -> None:
    program = "import os, runpy, sys; del os.memfd_create, sys.argv[:2]; runpy.run_path(sys.argv[0], None, '__main__')"
    stack = start(lasting("chat", events), below=(sys.executable, "-c", program))
    pid = pids(events, 1)["chat"]
    assert psutil.Process(pid).ppid() == stack.pid
    stack.send_signal(signal.SIGINT)
    assert stack.wait(timeout=WAIT_SECONDS) == 0


def test_ctrl_c_while_the_process_begins_anew_ends_it_without_a_word(
    start: Start, events: Events, tmp_path: Path
) -> None:
    # Python loads this as it starts.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'deploy.local.supervise' in sys.orig_argv:\n"
        # Tests that run in the background begin with a SIGINT that is ignored.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    stack = start(lasting("chat", events), below=("/usr/bin/env", f"PYTHONPATH={tmp_path}:{REPOSITORY}"))
    assert text(stack) == ""
    assert stack.returncode == 0
