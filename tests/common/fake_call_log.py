"""A call log that tests look into."""

from __future__ import annotations

from common.logs import CallLine


class FakeCallLog:
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[CallLine] = []

    def write(self, line: CallLine) -> None:
        """Keep the line."""
        self.lines.append(line)
