"""An upstream's answer on its way to the caller: passed on as it is, read only to account for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from common.errors import UpstreamRefused, openai_body
from common.metering.account import Account
from common.metering.record import Outcome
from common.providers.provider import Answer, Upstream

# Envoy's transcoder takes no message over 1 MiB, and a slow reader should hold up pieces rather than the whole.
_PIECE_BYTES: Final = 256 * 1024


class Head(msgspec.Struct, frozen=True):
    """What comes before an answer's body."""

    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Reply(Protocol):
    """Where an answer goes. Its last piece does not: that one is returned, so that it can leave with the status."""

    def begin(self, head: Head) -> None:
        """Take the head; it leaves with the first piece, because until then a failure can become a status."""

    async def write(self, piece: bytes) -> None:
        """Send a piece, and return when there is room for another; raises CancelledError when the caller has gone."""


class Collected:
    """A reply that is kept, for callers who want it whole; ``pieces`` is what was written so far."""

    def __init__(self) -> None:
        self.head = Head()
        self.pieces: list[bytes] = []

    def begin(self, head: Head) -> None:
        """Keep the head."""
        self.head = head

    async def write(self, piece: bytes) -> None:
        """Keep the piece."""
        self.pieces.append(piece)

    def whole(self, last: bytes) -> bytes:
        """Return the body that ends with ``last``; raises UpstreamRefused when the head says that it is an error."""
        body = b"".join((*self.pieces, last))
        raise_for_status(self.head.status, body, self.head.headers)
        return body


async def whole(
    answer: Answer, upstream: Upstream, account: Account, reply: Reply, *, read: Callable[[bytes], None]
) -> bytes:
    """Pass on the body of an answer that is no stream, and settle the account before its last piece, which is returned.

    ``read`` is called with the body of a success, to count what it reports; what it raises ends the request. An error
    goes out in the upstream's own form, without secrets.
    """
    body = await answer.read()
    account.first_byte()
    error_code = ""
    if answer.status >= 400:
        body = error_body(answer.status, upstream.without_secrets(body))
        error_code = "upstream_refused"
    else:
        read(body)
    last = await all_but_last(body, reply, sent=account.sent)
    account.sent(len(last))
    account.settle(Outcome.COMPLETED, status=answer.status, error_code=error_code)
    return last


async def all_but_last(body: bytes, reply: Reply, *, sent: Callable[[int], None] = lambda _: None) -> bytes:
    """Write a whole body in pieces and return the last of them; ``sent`` is told each piece's size before it leaves."""
    last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
    for start in range(0, last, _PIECE_BYTES):
        sent(_PIECE_BYTES)
        await reply.write(body[start : start + _PIECE_BYTES])
    return body[last:] if last else body


def error_body(status: int, body: bytes) -> bytes:
    """Return the upstream's error as it is when it is a JSON object, and in OpenAI's envelope when it is not."""
    try:
        if isinstance(msgspec.json.decode(body), dict):
            return body
    except (ValueError, RecursionError):
        pass
    text = body[:500].decode("utf-8", "replace").strip()
    message = f"The provider answered {status}" + (f": {text}" if text else ".")
    return openai_body(UpstreamRefused(message, status=status))


def raise_for_status(status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Raise UpstreamRefused with what an error's body says, if ``status`` is an error.

    Reads OpenAI's envelope, Mistral's flat object, and the list of ``detail`` that validation errors of both come in.
    """
    if status < 400:
        return
    details = _details(body)
    message = details.get("message") or details.get("msg")
    raise UpstreamRefused(
        message if isinstance(message, str) else f"The provider answered {status}.",
        status=status,
        code=details.get("code") and str(details["code"]),
        param=details.get("param") and str(details["param"]),
        headers=headers,
    )


def _details(body: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(answer, dict):
        return {}
    if isinstance(answer.get("message"), dict):
        answer = answer["message"]
    found = answer.get("error") or answer.get("detail") or answer
    if isinstance(found, list):
        found = found[0] if found else {}
        if isinstance(found, dict) and isinstance(found.get("loc"), list):
            found = {"param": ".".join(map(str, found["loc"])), **found}
    return found if isinstance(found, dict) else {"message": found}
