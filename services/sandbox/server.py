"""The HTTP server of the sandbox: uvicorn with connections that an answer can hang up."""

from __future__ import annotations

import asyncio
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

# Longer than a client's pool keeps an idle connection, so that only faults close connections that a client still uses.
_KEEP_ALIVE_SECONDS: Final = 3600
_SHUTDOWN_SECONDS: Final = 2


class Connection(H11Protocol):
    """A connection that puts `hang_up` in the state of its requests: it sends what was written, then closes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the requests of this connection their own state."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "hang_up": transport.close}


def make_server(app: FastAPI, *, host: str, port: int) -> uvicorn.Server:
    """Return a server that was not started yet."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        loop="uvloop",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)
