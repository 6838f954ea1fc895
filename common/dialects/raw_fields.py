"""Changes single fields of a JSON object and leaves the bytes of all others as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

NULL: Final = msgspec.Raw(b"null")
"""The default of a field that is not there."""
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def fields_of(body: bytes | memoryview | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Return an object's fields, each as its bytes; raises ValueError or RecursionError when it is no object."""
    return _FIELDS.decode(body)


def with_fields(fields: Mapping[str, msgspec.Raw], changes: Mapping[str, bytes]) -> bytes:
    """Return the object of these fields, some of them set to other JSON."""
    return msgspec.json.encode({**fields, **{name: msgspec.Raw(value) for name, value in changes.items()}})


def is_present(raw: msgspec.Raw) -> bool:
    """Say whether a field was there and not null."""
    return raw is not NULL and bytes(raw) != b"null"
