"""Gives each user names of their own in a Chroma that all users share.

Chroma isolates nothing by itself: whoever names a database gets it. So the stored name of a user's database is a prefix
and the user's own name for it, and it lies in a Chroma tenant of the user's own (see ``tenancy``). The prefix has a
fixed length and is made of a hash, so that no user id, whatever its characters, and no name can make one user's stored
name that of another.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from common.errors import Internal
from services.chroma.refusals import invalid

TENANT: Final = "default_tenant"
"""The tenant that callers see, and the one on the Chroma server in which databases of several users may lie."""
DEFAULT_DATABASE: Final = "default_database"
_HASH_CHARACTERS: Final = 32
_NAME_CHARACTERS: Final = 512
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]+[a-zA-Z0-9]")
_SEPARATOR: Final = re.compile(r"[a-zA-Z0-9._-]{1,32}")


@dataclass(frozen=True, slots=True)
class Namespace:
    """One user's names: ``prefix`` begins the stored name of each of their databases, ``tenant`` is theirs alone."""

    user_id: str
    prefix: str
    tenant: str

    def stored_name(self, name: str) -> str:
        """Return the stored name of the database that the user calls ``name``; raises Refusal for a bad name.

        Checked before the prefix, because "-ab" would be a valid name behind it.
        """
        longest = _NAME_CHARACTERS - len(self.prefix)
        if not _NAME.fullmatch(name) or len(name) > longest:
            raise invalid(
                f"Expected a name containing 3-{longest} characters from [a-zA-Z0-9._-], starting and ending with a "
                f"character in [a-zA-Z0-9]. Got: {name[:_NAME_CHARACTERS]}",
                code="invalid_name",
            )
        if ".." in name:
            raise invalid(
                f"Expected a name that does not contains two consecutive periods (..). Got {name}", code="invalid_name"
            )
        return self.prefix + name

    def owns(self, stored: str) -> bool:
        """Say whether a stored name is one of the user's."""
        return stored.startswith(self.prefix)

    def own_name(self, stored: str) -> str:
        """Return the user's own name for a stored one; raises Internal rather than show another user's."""
        if not self.owns(stored):
            raise Internal("Chroma answered with a database that was not asked for.", code="foreign_database")
        return stored[len(self.prefix) :]

    def scrub(self, text: str, *, database: str) -> str:
        """Return an error's text with stored names as the user knows them; ``database`` is the user's, "" for none."""
        text = text.replace(self.tenant, TENANT)
        if database:
            text = text.replace(self.prefix + database, database)
        # A user may put the prefix into names of their own; then it is theirs and stays.
        return text if self.prefix in database else text.replace(self.prefix, "")


def namespace_of(user_id: str, *, separator: str) -> Namespace:
    """Return the user's namespace; raises ValueError without a user."""
    if not user_id:
        raise ValueError("a namespace needs a user")
    digest = hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
    # The tenant's name begins with another letter than databases' do, so that an error's text is unambiguous.
    return Namespace(user_id, prefix=f"u{digest}{separator}", tenant=f"t{digest}{separator}tenant")


def checked_separator(separator: str) -> str:
    """Return the separator; raises ValueError when Chroma would not take it within a name."""
    if not _SEPARATOR.fullmatch(separator) or ".." in separator:
        raise ValueError("must be 1 to 32 characters of [a-zA-Z0-9._-], without two periods in a row")
    return separator
