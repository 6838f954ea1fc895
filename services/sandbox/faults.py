"""The faults that a request asks for, in its body (`"sandbox": {"status": 429}`) or in its model (`any?status=429`).

Both at once are merged and the body wins. The model's form is that of a URL query: `&` between faults, `+` or `%20` for
a space, `true` and `false`. An unknown fault or a wrong value is refused with 400. Events are counted from 1 and every
`data:` event counts, `[DONE]` too; an answer in JSON counts as one event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec

from services.sandbox.checks import Refused, converted

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
_Position = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
_HeaderText = Annotated[str, msgspec.Meta(pattern=r"\A[!-~]+( [!-~]+)*\Z", max_length=200)]
_NEEDED_WITH: Final = {
    "error_message": ("status", "error_event"),
    "error_type": ("status", "error_event"),
    "error_code": ("status", "error_event"),
    "error_body": ("status",),
    "retry_after": ("status",),
    "retry_after_ms": ("status",),
    "should_retry": ("status",),
    "stall_seconds": ("stall_after_events",),
}


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong in one answer; every default means that nothing does."""

    # Seconds before the status line and the headers.
    first_byte_delay_seconds: _Seconds = 0.0
    # Seconds between the headers and the first event.
    first_event_delay_seconds: _Seconds = 0.0
    # Seconds between two events. Default: TURNPIKE_SANDBOX_EVENT_DELAY_SECONDS.
    event_delay_seconds: _Seconds | None = None
    # Answer this status, with an error body, instead of a completion.
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    # Headers of an error: Retry-After, Retry-After-Ms, X-Should-Retry. Each needs `status`.
    retry_after: _HeaderText | int | float | None = None
    retry_after_ms: _Number | None = None
    should_retry: bool | None = None
    # Fields of the error object of `status` or `error_event`, in the place of the usual ones for the status.
    error_message: str | None = None
    error_type: str | None = None
    error_code: str | None = None
    # The whole body of the error of `status`, sent as text/html, as a broken proxy in between would.
    error_body: str | None = None
    # Close the connection in the place of an answer: not one byte is sent.
    no_answer: bool = False
    # Close the connection after exactly so many bytes of the body, the headers not counted.
    cut_after_bytes: _Position | None = None
    # Send only the first half of this event, so that its JSON is broken, and go on.
    malformed_event: _Number | None = None
    # Send an error in the place of this event, and end there without [DONE].
    error_event: _Number | None = None
    # Be silent for stall_seconds after so many events (0: after the headers), then go on.
    stall_after_events: _Position | None = None
    # How long to be silent. Default: 30 when stall_after_events is set. Needs stall_after_events.
    stall_seconds: _Seconds | None = None
    # End a stream without [DONE].
    no_done: bool = False
    # Answer a streaming request with a completion in JSON and status 200.
    json_instead_of_stream: bool = False
    # Leave usage out, even when it is asked for.
    no_usage: bool = False
    # Send a comment line (`: ping`) before each event of a stream.
    comments: bool = False
    # Send the body in writes of so many bytes, across the borders of events.
    write_bytes: _Number | None = None
    # Not a fault: a text of exactly so many words, which is so many tokens and events of content.
    events: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | None = None
    # Not faults: a completion in JSON has a field `sandbox` with the request's headers or body. Credentials in headers
    # are cut to their first 4 characters.
    echo_headers: bool = False
    echo_body: bool = False

    @property
    def stall(self) -> float:
        """Return how long the stall is, in seconds."""
        return 30.0 if self.stall_seconds is None else self.stall_seconds


def read_faults(body: Mapping[str, Any], *, model: str) -> Faults:
    """Read the faults that a request asks for; raises Refused that names the wrong one."""
    from_body = body.get("sandbox") or {}
    if not isinstance(from_body, dict):
        raise Refused("Invalid type for 'sandbox': expected an object.", param="sandbox", code="invalid_type")
    _, _, query = model.partition("?")
    from_model = dict(parse_qsl(query, keep_blank_values=True))
    try:
        # Text is the only type that a query has, so its values are converted first and the body's are not.
        typed = msgspec.structs.asdict(converted(from_model, Faults, path="sandbox", strict=False))
    except Refused as refused:
        raise Refused(refused.message, param="model", code=refused.code) from refused
    faults = converted({**{key: typed[key] for key in from_model}, **from_body}, Faults, path="sandbox")
    for name, needed in _NEEDED_WITH.items():
        if getattr(faults, name) is not None and all(getattr(faults, other) is None for other in needed):
            param = f"sandbox.{name}" if name in from_body else "model"
            message = f"The fault `{name}` has no effect without `{'` or `'.join(needed)}`."
            raise Refused(message, param=param, code="invalid_fault")
    return faults
