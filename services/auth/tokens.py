"""The form of API tokens: ``tp_``, 36 random base62 characters (214 bits), 6 base62 characters of checksum."""

from __future__ import annotations

import hashlib
import re
import string
import zlib
from collections.abc import Callable
from typing import Final

PREFIX: Final = "tp_"

RandomBelow = Callable[[int], int]
"""Returns a random number from 0 up to, and without, its argument; secrets.randbelow outside of tests."""

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH: Final = 36
_CHECKSUM_LENGTH: Final = 6  # 62 to the power of 6 is more than the 2 to the power of 32 that CRC32 needs.
_TOKEN: Final = re.compile(r"tp_([0-9A-Za-z]{36})([0-9A-Za-z]{6})")
_ID_LENGTH: Final = 22
_ID: Final = re.compile(r"tok_[0-9A-Za-z]{22}")
_SHOWN_LENGTH: Final = len(PREFIX) + 6  # Leaves 178 unknown random bits.


def new_token(randbelow: RandomBelow) -> str:
    """Return a new secret."""
    random = _random(_RANDOM_LENGTH, randbelow)
    return f"{PREFIX}{random}{_checksum(random)}"


def new_token_id(randbelow: RandomBelow) -> str:
    """Return a new id, which is not a secret."""
    return f"tok_{_random(_ID_LENGTH, randbelow)}"


def is_well_formed(token: str) -> bool:
    """Say whether the token has the right form and checksum: what a typing error or a guess has not."""
    match = _TOKEN.fullmatch(token)
    return match is not None and _checksum(match[1]) == match[2]


def is_token_id(text: str) -> bool:
    """Say whether the text has the form of a token's id."""
    return _ID.fullmatch(text) is not None


def hash_of(token: str) -> bytes:
    """Return the SHA-256 hash under which the token is stored.

    A slow password hash would gain nothing: nobody can try 62 to the power of 36 tokens.
    """
    return hashlib.sha256(token.encode()).digest()


def display_prefix(token: str) -> str:
    """Return the first characters, by which users recognise their tokens."""
    return token[:_SHOWN_LENGTH]


def _random(length: int, randbelow: RandomBelow) -> str:
    return "".join(_ALPHABET[randbelow(len(_ALPHABET))] for _ in range(length))


def _checksum(random: str) -> str:
    rest = zlib.crc32(random.encode("ascii"))
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
