"""What the runner has to know of its children. It stays resident, so nothing here imports more than Python has."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

WELCOME = "welcome"
"""The child that ends by itself: it waits for the others and says that they are ready."""
BAD_SETTING_STATUS = 2
"""The exit status of a child that starting again cannot help."""


@dataclass(frozen=True)
class Listener:
    """An address on which a child listens, and the variable that moves it."""

    name: str
    host: str
    port: int
    variable: str
    child: str

    def errno(self) -> int:
        """Return the errno of listening on the address now, or 0."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
                probe.listen()
            except OSError as error:
                return error.errno or errno.EINVAL
        return 0

    def problem(self) -> str | None:
        """Return a line that says why nobody can listen on the port now, None if somebody can."""
        number = self.errno()
        if not number:
            return None
        why = "is taken by another process" if number == errno.EADDRINUSE else f"cannot be used ({os.strerror(number)})"
        return f"port {self.port} ({self.name}) {why}: set {self.variable} to another port"


def log_file(state: Path, name: str) -> Path:
    """Return where the child's output is kept."""
    return state / "logs" / f"{name}.log"
