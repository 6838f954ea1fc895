"""Whatever answers chats on a port: a gateway, a bare handler, a plain Envoy, or the upstream itself."""

from __future__ import annotations

from typing import Any

from bench.load import Found, Load, run


class Side:
    """One side of a comparison; ``sent`` counts the requests that it has answered."""

    def __init__(self, name: str, *, port: int, credential: str = "none") -> None:
        self.name = name
        self.port = port
        self.credential = credential
        self.sent = 0

    async def load(self, **load: Any) -> Found:
        """Run a load against this side; raises LoadFailed when an answer is wrong."""
        found = await run(Load(port=self.port, credential=self.credential, **load))
        self.sent += found.sent
        return found
