"""What is checked before anything starts; each failure is one line that says what to change."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import time
from pathlib import Path

from deploy.local.children import Listener
from deploy.local.config import CHROMA_SERVER, ENVOY, HOST, SANDBOX, LocalSettings
from deploy.local.refused import Refused

# A runner that was just killed leaves its children a moment to be torn down by the kernel.
_PORT_PATIENCE_SECONDS = 1.0
_PORT_POLL_SECONDS = 0.05
_VERSION_SECONDS = 20.0


def listeners(settings: LocalSettings) -> list[Listener]:
    """List the ports of a stack; the first is the public one."""
    ports = settings.ports
    inner = [(ENVOY, "Envoy's admin page", ports.admin), *((name, name, port) for name, port in ports.services.items())]
    if settings.uses_sandbox:
        inner.append((SANDBOX, "sandbox", ports.sandbox))
    if settings.uses_chroma_server:
        inner.append((CHROMA_SERVER, "the Chroma server", ports.chroma_server))
    return [
        Listener("Envoy", HOST, settings.port, variable="TURNPIKE_PORT", child=ENVOY),
        *(
            Listener(
                f"{name}, TURNPIKE_PORT_BASE+{port - settings.port_base}", HOST, port, "TURNPIKE_PORT_BASE", child=child
            )
            for child, name, port in inner
        ),
    ]


def check_ports(settings: LocalSettings) -> None:
    """Raise Refused when a port is taken, may not be used, or is asked for twice."""
    public, *inner = listeners(settings)
    for listener in inner:
        if listener.port == public.port:
            what = listener.name.partition(",")[0]
            raise Refused(f"TURNPIKE_PORT={public.port} is also the port of {what}: change it or TURNPIKE_PORT_BASE")
    for listener in (public, *inner):
        _require_free(listener)


def _require_free(listener: Listener) -> None:
    give_up = time.monotonic() + _PORT_PATIENCE_SECONDS
    while listener.errno() == errno.EADDRINUSE and time.monotonic() < give_up:
        time.sleep(_PORT_POLL_SECONDS)
    if problem := listener.problem():
        raise Refused(problem)


def check_files(repository: Path) -> None:
    """Raise Refused when a file that the stack reads is missing."""
    if not (repository / "gen" / "turnpike.pb").is_file():
        raise Refused("gen/turnpike.pb is missing: run make proto")
    for name in (
        "deploy/envoy/envoy.yaml",
        "deploy/envoy/answers.lua",
        "deploy/envoy/grpc.lua",
        "deploy/envoy/large.lua",
    ):
        if not (repository / name).is_file():
            raise Refused(f"{name} is missing: restore it with git checkout {name}")


def chroma_binary() -> Path:
    """Return the Chroma server's command, which lies beside this Python; raises Refused when it is missing."""
    beside = Path(sys.executable).with_name("chroma")
    if not beside.is_file():
        raise Refused("the chroma binary is missing: run make setup, or set CHROMA_BASE_URL to a Chroma server")
    return beside


def envoy_binary(named: Path | None) -> Path:
    """Return an Envoy that runs; raises Refused when there is none.

    ``named`` is what TURNPIKE_ENVOY says. Without it the wheel's command beside this Python is used, then PATH.
    """
    if named is not None:
        _require_envoy(named, otherwise="set TURNPIKE_ENVOY to an Envoy binary, or unset it")
        return named.absolute()
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.is_file() else shutil.which("envoy")
    otherwise = "run make setup, or set TURNPIKE_ENVOY to an Envoy binary"
    if found is None:
        raise Refused(f"the envoy binary is missing: {otherwise}")
    _require_envoy(Path(found), otherwise=otherwise)
    return Path(found).absolute()


def _require_envoy(path: Path, *, otherwise: str) -> None:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=_VERSION_SECONDS, check=False)
    except FileNotFoundError:
        raise Refused(f"the envoy binary {path} is missing: {otherwise}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"the envoy binary {path} does not run ({_reason(error)}): {otherwise}") from None
    if answer.returncode != 0 or b"version:" not in answer.stdout:
        raise Refused(f"the envoy binary {path} does not run (its --version says nothing of Envoy): {otherwise}")


def _reason(error: OSError | subprocess.TimeoutExpired) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "no answer to --version"
