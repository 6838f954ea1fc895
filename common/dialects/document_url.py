"""Tells by a URL alone whether it leads to an image or to a document, as the upstream wants to be told.

Only a data URL carries its content type. Any other URL is judged by the file extension of its path and never fetched: a
gateway that fetched what callers name could be sent to the hosts of its own network.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

_DATA: Final = "data:"
_IMAGE: Final = re.compile(r"data:\s*image/", re.IGNORECASE)
_EXTENSIONS: Final = frozenset(
    {"avif", "bmp", "gif", "heic", "heif", "jfif", "jpeg", "jpg", "png", "svg", "tif", "tiff", "webp"}
)


def is_data(url: str) -> bool:
    """Say whether this is, or begins as, a data URL."""
    return url.lstrip()[: len(_DATA)].lower() == _DATA


def is_image(url: str) -> bool:
    """Say whether the URL leads to an image; of a data URL the first characters are enough."""
    if is_data(url):
        return _IMAGE.match(url.lstrip()) is not None
    path = url.partition("#")[0].partition("?")[0]
    # What stands before the first slash is the host, whose end is no file extension.
    _, slash, path = path.partition("://")[2].partition("/")
    name = unquote(path).rstrip().rpartition("/")[2]
    _, dot, extension = name.rpartition(".")
    return bool(slash and dot) and extension.lower() in _EXTENSIONS
