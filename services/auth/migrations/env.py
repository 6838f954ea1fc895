"""What Alembic runs around each command: on the connection that it is given, or on its own when run by hand."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from common.settings import load
from services.auth.config import AuthSettings
from services.auth.database import lock_for_migrations, open_engine
from services.auth.schema import METADATA


def run(connection: Connection) -> None:
    """Run the migrations in one transaction."""
    lock_for_migrations(connection)
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_by_hand() -> None:
    """Run the migrations on the database that the environment names."""
    engine = open_engine(load(AuthSettings).database, command_seconds=None)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_by_hand())
