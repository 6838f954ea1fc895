"""Channels from one service of the gateway to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc

_OPTIONS: Final = (
    # http_proxy and grpc_proxy are for the way out of the operator's network, not for the way between services.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 20),
    # In spite of its name this is how long an attempt may take: a busy machine needs more than some milliseconds.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
)


def inner_channel(
    address: str, *, max_reconnect_backoff_ms: int = 1_000, options: Sequence[tuple[str, Any]] = ()
) -> grpc.aio.Channel:
    """Return a channel to a service at host:port, or any gRPC target; a context manager that closes it."""
    return grpc.aio.insecure_channel(
        address, options=(*_OPTIONS, ("grpc.max_reconnect_backoff_ms", max_reconnect_backoff_ms), *options)
    )
