"""Prints a platform JWT for a development user: python -m deploy.local.jwt alice."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import jwt
from pydantic import Field

from common.settings import load
from services.auth.config import JwtSettings

_LIFETIME: Final = timedelta(hours=12)


class _Settings(JwtSettings):
    state_dir: Path = Field(Path(".turnpike"), validation_alias="TURNPIKE_STATE_DIR")
    """The directory of the development secret, which serves when TURNPIKE_JWT_SECRET is not set."""


def development_secret(state_dir: Path) -> str:
    """Return the secret of this laptop's JWTs: 64 hexadecimal digits in a file that only its owner can read.

    Makes the file when it is missing; of several processes that do so at once, all get the same. Raises OSError.
    """
    path = state_dir / "jwt_secret"
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = state_dir / f"jwt_secret.{os.getpid()}.{secrets.token_hex(4)}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    try:
        # A link appears whole or not at all, and never in the place of another.
        with suppress(FileExistsError):
            path.hardlink_to(new)
    finally:
        new.unlink()
    return path.read_text().strip()


def platform_jwt(
    secret: str,
    *,
    user_id: str,
    issuer: str | None = None,
    audience: str | None = None,
    lifetime: timedelta = _LIFETIME,
    now: datetime | None = None,
) -> str:
    """Return an HS256 JWT that stands for the user from ``now`` (by default the clock's) for ``lifetime``."""
    issued = now or datetime.now(UTC)
    claims = {"sub": user_id, "iat": issued, "exp": issued + lifetime, "iss": issuer, "aud": audience}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, algorithm="HS256")


def main(arguments: Sequence[str]) -> None:
    """Print the JWT of the user that is the only argument; exits with 2 when there is none."""
    user_id = arguments[0].strip() if arguments else ""
    if not user_id:
        sys.stderr.write("set USER_ID, as in: make jwt USER_ID=alice\n")
        raise SystemExit(2)
    settings = load(_Settings)
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else development_secret(settings.state_dir)
    print(platform_jwt(secret, user_id=user_id, issuer=settings.jwt_issuer, audience=settings.jwt_audience))


if __name__ == "__main__":
    main(sys.argv[1:])
