"""Hears that another process on the same PostgreSQL has revoked something.

Source: https://www.postgresql.org/docs/current/sql-notify.html
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.announcements import Announcements

_log = structlog.get_logger(__name__)

_CHANNEL: Final = "turnpike_revocations"
_OWN_SECONDS: Final = 1.0
"""How long an announcement of our own may take to come back."""


async def announce(connection: AsyncConnection) -> None:
    """Announce a revocation to every process that listens, when the connection's transaction ends well."""
    await connection.execute(sa.select(sa.func.pg_notify(_CHANNEL, "")))


@asynccontextmanager
async def listening(engine: AsyncEngine) -> AsyncIterator[Announcements]:
    """Hear announcements on a connection of its own; raises what the engine raises while the database is away."""
    heard = Announcements()
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_termination_listener(heard.lose)
        try:
            await driver.add_listener(_CHANNEL, heard.announce)
            # A pooler that shares connections lets LISTEN pass and delivers nothing.
            async with engine.begin() as other:
                await announce(other)
            heard.works = await heard.wait(seconds=_OWN_SECONDS) and not heard.lost
            if not heard.works:
                _log.warning("PostgreSQL's notifications do not arrive, so it is asked for revocations all the time")
            yield heard
        finally:
            driver.remove_termination_listener(heard.lose)
            await driver.remove_listener(_CHANNEL, heard.announce)
