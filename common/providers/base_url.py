"""Where a provider's API begins, however the operator wrote it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_VERSION: Final = re.compile(r"/v\d+[a-z0-9]*(/|$)")


def normalized(base_url: str) -> str:
    """Return the URL under which the API's paths lie; raises ValueError when it is not an http(s) URL.

    SDKs want /v1 in the base URL, other tools leave it out: it is added where the path names no version.
    """
    url = base_url.strip()
    url = (url if "://" in url else f"https://{url}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is not an http or https URL")
    _ = parts.port  # Raises ValueError when it is not a number.
    return url if _VERSION.search(parts.path) else f"{url}/v1"
