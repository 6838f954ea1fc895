"""Ties a process to its parent's life, so that even a SIGKILL of the parent leaves no orphan. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
AVAILABLE = sys.platform == "linux"
"""Whether this kernel can do it; elsewhere a SIGKILL of the runner leaves its children behind."""
# Loaded before any fork: a child between fork and exec should do as little as it can.
_LIBC = ctypes.CDLL(None, use_errno=True) if AVAILABLE else None


def tether(number: signal.Signals, *, parent: int) -> None:
    """Have the kernel send this process ``number`` when its parent dies; the tie survives an exec but not a fork.

    ``parent`` is the process id that getppid() must return. When that parent is dead already, the signal is sent at
    once. Raises OSError when the kernel refuses. The tie is to the thread that forked: a parent that starts this
    process from a short-lived thread ends it together with the thread.
    """
    if _LIBC is None:
        return
    if _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # A parent that died before the call above will never be reported.
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
