"""Writes to the terminal; one that is gone must not stop the stack."""

from __future__ import annotations

import os
from contextlib import suppress


def say(text: str) -> None:
    """Write a line about the stack."""
    write(f"turnpike: {text}\n".encode())


def write(data: bytes, *, descriptor: int = 1) -> None:
    """Write all of it, unbuffered."""
    with suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
