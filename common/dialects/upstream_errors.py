"""Reads the errors of providers, whatever their form."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from common.dialects import lenient_json
from common.errors import UpstreamRefused, openai_body


def error_body(status: int, body: bytes) -> bytes:
    """Return a provider's error as it is when it is a JSON object, and in OpenAI's envelope when it is not."""
    try:
        # Strictly: what a client cannot parse hides the message from its user.
        if isinstance(msgspec.json.decode(body), dict):
            return body
    except (ValueError, RecursionError):
        pass
    text = body[:500].decode("utf-8", "replace").strip()
    message = f"The provider answered {status}" + (f": {text}" if text else ".")
    return openai_body(UpstreamRefused(message, status=status))


def status_of(body: bytes) -> int:
    """Return the status that an error under a success's status stands for: its own number if it has one, or 502."""
    details = details_of(body)
    for name in ("code", "status", "status_code"):
        value = details.get(name)
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if type(number) is int and HTTPStatus.BAD_REQUEST <= number < 600:
            return number
    return HTTPStatus.BAD_GATEWAY


def raise_for_status(status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Raise UpstreamRefused with what an error's body says, if ``status`` is an error."""
    if status < HTTPStatus.BAD_REQUEST:
        return
    details = details_of(body)
    message = details.get("message") or details.get("msg")
    raise UpstreamRefused(
        message if isinstance(message, str) else f"The provider answered {status}.",
        status=status,
        code=details.get("code") and str(details["code"]),
        param=details.get("param") and str(details["param"]),
        headers=headers,
    )


def details_of(body: bytes) -> Mapping[str, Any]:
    """Return the object that says what is wrong, empty when there is none.

    Reads OpenAI's envelope, Mistral's flat object, and the list of ``detail`` that FastAPI sends.
    """
    answer = lenient_json.decode_object(body) or {}
    if isinstance(answer.get("message"), dict):
        answer = answer["message"]
    found = answer.get("error") or answer.get("detail") or answer
    if isinstance(found, list):
        found = found[0] if found else {}
        if isinstance(found, dict) and isinstance(found.get("loc"), list):
            found = {"param": ".".join(map(str, found["loc"])), **found}
    return found if isinstance(found, dict) else {"message": found}
