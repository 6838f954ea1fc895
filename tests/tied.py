"""Runs a program that dies with the process that started it: `python tied.py <parent> <program> <argument> ...`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # The program's environment is its own, so nothing in there says where the repository is.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from deploy.local.tether import tether

    tether(signal.SIGKILL, parent=int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - its caller is a test


def tied(command: Sequence[str]) -> list[str]:
    """Return a command for the same program, which a SIGKILL of this process ends, too."""
    return [sys.executable, __file__, str(os.getpid()), *command]
