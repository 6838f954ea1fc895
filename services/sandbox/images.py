"""Reads the type and the size of an image from its first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import imagesize

_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the header of an image says; sizes are in pixels."""

    media_type: str
    width: int
    height: int


def read_image(data: bytes) -> Image | None:
    """Read a PNG, JPEG, GIF or WebP; None when it is another thing or broken off before its size."""
    media_type = next((name for beginning, name in _BEGINNINGS if data.startswith(beginning)), None)
    if media_type is None:
        return None
    width, height = imagesize.get(BytesIO(data))
    return Image(media_type=media_type, width=int(width), height=int(height)) if min(width, height) > 0 else None
