"""The call that is being served, in plain Python."""

from __future__ import annotations

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field

from common.identity.principal import NOBODY, Principal

CLIENT_GONE_STATUS = 499
"""What logs and events show when the caller left before the answer; nobody receives it."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_current: ContextVar[Call] = ContextVar("call")


@dataclass(slots=True)
class Call:
    """One call of one RPC, from its arrival to its end.

    ``method`` and ``path`` are those of the HTTP request where Envoy transcoded one, else "GRPC" and the RPC's name.
    ``started`` is in seconds of ``time.perf_counter``. ``status`` is the HTTP status that the caller got, for the logs.
    ``message`` is the serialized request where it came together with the call.
    """

    rpc: str
    metadata: dict[str, str]
    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    principal: Principal = NOBODY
    status: int = 200
    message: bytes = b""


def open_call(rpc: str, metadata: dict[str, str]) -> Call:
    """Make the call from an RPC's name and its metadata, and make it the current one of this task."""
    given = metadata.get("x-request-id", "")
    path = metadata.get("x-envoy-original-path")
    call = Call(
        rpc=rpc,
        metadata=metadata,
        request_id=given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4()),
        method=metadata.get("x-envoy-original-method", "GRPC") if path else "GRPC",
        path=path.partition("?")[0] if path else rpc,
    )
    _current.set(call)
    return call


def current_call() -> Call:
    """Return the call that this task serves; raises LookupError outside of one."""
    return _current.get()
