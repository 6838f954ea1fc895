"""Where a provider's API begins, however the operator wrote it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

# The endpoints that people copy from a provider's documentation.
_ENDPOINT: Final = re.compile(
    r"/(?:chat/completions|completions|embeddings|images/generations|messages|models|ocr|responses)$"
)


def normalized(base_url: str) -> str:
    """Return the URL under which the API's paths lie; raises ValueError when it is not an http(s) URL.

    A host alone gets /v1, as SDKs write it. Any other path is where the API lies, with a version or without one. A
    whole endpoint stands for what is before it.
    """
    url = base_url.strip()
    url = (url if "://" in url else f"https://{url}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is not an http or https URL")
    _ = parts.port  # Raises ValueError when it is not a number.
    return _ENDPOINT.sub("", url) if parts.path else f"{url}/v1"
