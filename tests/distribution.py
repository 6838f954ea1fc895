"""Which tests share a process, and which come first, when `make test` runs them in several processes."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

_TOGETHER: Final = ("tests/e2e/", "tests/services/usage/", "tests/services/auth/", "tests/services/chroma/")
"""Folders whose tests share servers that take seconds to start, the slowest first."""
_APART: Final = ("tests/e2e/test_exactness.py", "tests/e2e/test_readme.py", "tests/e2e/test_streaming.py")
"""Files of these folders that start a stack of their own in any case."""


def place(test: str) -> int:
    """Return when the test should start, 0 first: what takes longest must not be left for the end."""
    unit = unit_of(test)
    return (*_TOGETHER, *_APART, test).index(unit)


def unit_of(test: str) -> str:
    """Return the name of the unit that runs in one process: a folder, a file, or the test alone."""
    return next((unit for unit in (*_APART, *_TOGETHER) if test.startswith(unit)), test)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc] # ships no types
    """Gives each process that is free the next unit."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
