"""Reads JSON that strict decoders refuse: providers send it, and their answers are passed on all the same.

RFC 8259, section 8.2, leaves it open what a lone surrogate means: servers that cut text by UTF-16 units send the halves
of a character in two events. NaN and bytes that are no UTF-8 are not JSON, and common.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

# Deeper than any answer is, and well within what Python can recurse.
_DEPTH: Final = 100


def decode(data: bytes) -> Any:
    """Return the value; raises ValueError when the data is no JSON even so. Lone surrogates become U+FFFD."""
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        value = json.loads(data.decode("utf-8-sig", "replace"))
        return _paired(value) if b"\\u" in data else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def decode_object(data: bytes) -> dict[str, Any] | None:
    """Return the object, None when the data is no JSON object even so."""
    try:
        value = decode(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _paired(value: Any, *, depth: int = _DEPTH) -> Any:
    """Return the value without lone surrogates, which no protobuf and no UTF-8 can hold, and without what is deeper."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_paired(item, depth=depth - 1) for item in value] if depth else None
    if isinstance(value, dict):
        return {_paired(name): _paired(item, depth=depth - 1) for name, item in value.items()} if depth else None
    return value
