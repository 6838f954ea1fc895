"""Brings a database to the newest revision; as a program, the one that the environment names."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import URL

from common.settings import load
from services.auth.config import AuthSettings
from services.auth.database import open_engine

_MIGRATIONS: Final = Path(__file__).parent
_ERRORS: Final = (sa.exc.SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, CommandError, OSError)


def alembic_config() -> Config:
    """Return the configuration that alembic.ini holds elsewhere."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def migrate(url: URL) -> None:
    """Bring the database to the newest revision; one of several processes that start does it, the others wait."""
    engine = open_engine(url, command_seconds=None)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: sa.Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def main() -> None:
    """Migrate; what is wrong with the database is one line on the standard error, and ends the program with 1."""
    try:
        asyncio.run(migrate(load(AuthSettings).database))
    except _ERRORS as error:
        sys.stderr.write((str(error).partition("\n")[0] or type(error).__name__) + "\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
