"""The state directory: who may use it, and the secrets in it."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from deploy.local.refused import Refused

SERVICE_KEY_FILE = "service_key"
TOKEN_FILE = "token"  # noqa: S105 - a file's name
ENV_FILE = "env"
LOCK_FILE = "lock"


def open_state(path: Path) -> Path:
    """Create the directory for its owner only and return its absolute path; raises Refused when that is impossible."""
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("logs", "envoy", "sandbox"):
            (path / name).mkdir(mode=0o700, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise Refused(f"cannot keep state in {path} ({error.strerror}): set TURNPIKE_STATE_DIR") from None
    return path


def lock(state: Path) -> int:
    """Claim the directory until this process ends and return the lock's file descriptor.

    Raises Refused when another stack has it. The kernel drops the lock with its process, so no stale one remains.
    """
    descriptor = os.open(state / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused(
            f"a stack is already running on {state}: stop it, or set TURNPIKE_STATE_DIR, TURNPIKE_PORT and"
            " TURNPIKE_PORT_BASE for a second one"
        ) from None
    return descriptor


def kept_secret(path: Path) -> str:
    """Return the secret in the file, made on the first call: 64 hexadecimal digits that only the owner can read."""
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = ""
    if not kept:
        kept = secrets.token_hex(32)
        write_private(path, kept + "\n")
    return kept


def write_private(path: Path, text: str) -> None:
    """Replace the file as a whole by one that only its owner can read."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
