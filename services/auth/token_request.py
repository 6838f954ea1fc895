"""Reads the JSON that asks for an API token, and refuses what is not exactly right."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from common.dialects.json_errors import json_refusal
from common.errors import InvalidRequest


class TokenRequest(msgspec.Struct, frozen=True):
    """What a new token shall be; null counts as absent, and no scopes as all of them."""

    name: str | None = None
    scopes: list[str] | None = None
    expires_at: datetime | None = None


_DECODER: Final = msgspec.json.Decoder(TokenRequest)


def token_request(body: bytes) -> TokenRequest:
    """Return what the body asks for; an empty one asks for the defaults. Raises InvalidRequest."""
    if not body.strip():
        return TokenRequest()
    try:
        request = _DECODER.decode(body)
    except (ValueError, RecursionError) as error:
        raise json_refusal(error) from None
    if request.scopes is not None and not request.scopes:
        raise InvalidRequest("scopes must name at least one; leave it out for all of them.", param="scopes")
    if request.expires_at is not None and request.expires_at.tzinfo is None:
        raise InvalidRequest("expires_at needs a time zone, as in 2027-01-31T00:00:00Z.", param="expires_at")
    return request
