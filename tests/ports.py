"""Free TCP ports for servers that cannot be handed a listening socket.

The kernel picks the local ports of outgoing connections from its ephemeral range, so a port of that range may be taken
between the moment a test chooses it and the moment its server listens. These ports are outside of the range, and a lock
file per port keeps test runs that share a machine apart.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_IANA_RANGE: Final = (49152, 65535)
"""RFC 6335 names these dynamic; systems without the file above use them."""
_LOWEST: Final = 10_000
"""Well-known servers of a developer's machine listen below."""
_FEWEST: Final = 500
_TRIES: Final = 1_000


def ephemeral_range(file: Path = _RANGE_FILE) -> range:
    """Return the ports that the kernel gives to outgoing connections."""
    try:
        first, last = (int(number) for number in file.read_text().split())
    except (OSError, ValueError):
        first, last = _IANA_RANGE
    return range(first, last + 1)


def usable_ports(ephemeral: range) -> range:
    """Return the ports to choose from: those below the ephemeral range, or above it if there are more.

    A machine whose ephemeral range leaves fewer than 500 gets all ports.
    """
    choices = range(_LOWEST, ephemeral.start), range(ephemeral.stop, 65536)
    usable = max(choices, key=len)
    return usable if len(usable) >= _FEWEST else range(_LOWEST, 65536)


@contextmanager
def reserved_ports(count: int = 1, *, usable: range | None = None) -> Iterator[range]:
    """Give so many free ports in a row; until the end of the block no other test gets one of them.

    Nobody listens on them, so a test may also use one as the address of a server that is down. ``usable`` is where to
    look, by default outside of the ephemeral range. Raises RuntimeError when no row is found.
    """
    usable = usable or usable_ports(ephemeral_range())
    for _ in range(_TRIES):
        first = random.randrange(usable.start, usable.stop - count + 1)
        row = range(first, first + count)
        with ExitStack() as locks:
            if all(_reserve(port, locks) for port in row):
                yield row
                return
    raise RuntimeError(f"no {count} free ports in a row within {usable.start} to {usable.stop - 1}")


def _reserve(port: int, locks: ExitStack) -> bool:
    """Lock the port until ``locks`` are released; returns False when somebody else has it."""
    path = _locks_directory() / str(port)
    # The kernel releases the lock of a process that is killed; only its empty file stays.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    locks.callback(os.close, descriptor)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last owner may have removed the file since it was opened, and the next one would lock another.
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            return False
        locks.callback(path.unlink)
        # All addresses, because whoever listens on 0.0.0.0 has the port, too.
        with socket.create_server(("", port)):
            return True
    return False


def _locks_directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"turnpike-test-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory
