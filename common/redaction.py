"""Hides what the operator keeps secret in what callers get to see."""

from __future__ import annotations

from typing import Final

# Local servers are given keys such as "x" or "none": to hide those would garble every word that holds them.
_SHORTEST: Final = 6


def without_secret(body: bytes, secret: str) -> bytes:
    """Return the body with stars in the place of the secret; one of fewer than six characters hides nothing."""
    return body.replace(secret.encode(), b"***") if len(secret) >= _SHORTEST else body
