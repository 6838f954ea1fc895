"""Reads the type and the size of an image from its first bytes."""

from dataclasses import dataclass

# Start of frame in all its forms; 0xC4, 0xC8 and 0xCC lie in between and are something else.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, without a length: TEM, the restarts, the start and the end of the image.
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the header of an image says; sizes are in pixels."""

    media_type: str
    width: int
    height: int


def read_image(data: bytes) -> Image | None:
    """Read a PNG, JPEG, GIF or WebP; None when it is another thing or broken off before its size."""
    readers = (("image/png", _png), ("image/jpeg", _jpeg), ("image/gif", _gif), ("image/webp", _webp))
    for media_type, reader in readers:
        width, height = reader(data)
        if width and height:
            return Image(media_type=media_type, width=width, height=height)
    return None


def _big(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _little(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")


def _png(data: bytes) -> tuple[int, int]:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR" or len(data) < 24:
        return 0, 0
    return _big(data, 16, 4), _big(data, 20, 4)


def _jpeg(data: bytes) -> tuple[int, int]:
    if not data.startswith(b"\xff\xd8"):
        return 0, 0
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _JPEG_FRAMES:
            return _big(data, place + 7, 2), _big(data, place + 5, 2)
        if marker == 0xFF:
            place += 1
        else:
            place += 2 if marker in _JPEG_ALONE else 2 + _big(data, place + 2, 2)
    return 0, 0


def _gif(data: bytes) -> tuple[int, int]:
    if data[:6] not in (b"GIF87a", b"GIF89a") or len(data) < 10:
        return 0, 0
    return _little(data, 6, 2), _little(data, 8, 2)


def _webp(data: bytes) -> tuple[int, int]:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0, 0
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
    if kind == b"VP8L":
        bits = _little(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    return 0, 0
