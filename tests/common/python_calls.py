"""Counts calls of Python functions: what runs for each event must not become more without anybody's notice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def python_calls(function: Callable[[], Any]) -> int:
    """Return how many functions written in Python ``function`` calls, and those call; built-in ones do not count."""
    names: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            names.append(frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return len(names)
