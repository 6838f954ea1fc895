"""The migrations: they give what schema.py says, happen once, and happen whole."""

from __future__ import annotations

import asyncio
import sys

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import URL

from services.auth.database import lock_for_migrations, open_engine
from services.auth.migrations.__main__ import main
from services.auth.migrations.upgrade import alembic_config, migrate
from services.auth.opening import NEWEST_REVISION
from services.auth.schema import METADATA
from tests.services.auth.support import ENVIRONMENT


async def _tables(url: URL) -> set[str]:
    engine = open_engine(url)
    async with engine.connect() as connection:
        tables = await connection.run_sync(lambda sync: set(sa.inspect(sync).get_table_names()))
    await engine.dispose()
    return tables


async def test_the_migrations_give_the_schema(database_url: URL) -> None:
    await migrate(database_url)
    engine = open_engine(database_url)
    async with engine.connect() as connection:
        difference = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), METADATA)
        )
    await engine.dispose()
    assert difference == []


def test_the_service_knows_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == NEWEST_REVISION


async def test_several_processes_may_start_at_once(database_url: URL) -> None:
    address = database_url.render_as_string(hide_password=False)
    settings = {"TURNPIKE_AUTH_DATABASE_URL": address, "TURNPIKE_SERVICE_KEY": "0123456789abcdef"}
    command_line = ("-m", "services.auth.migrations", "upgrade", "head")
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, *command_line, env=ENVIRONMENT | settings)
        for _ in range(2)
    ]
    assert [await process.wait() for process in processes] == [0, 0]
    assert await _tables(database_url) == {"alembic_version", "api_tokens", "revocations"}


async def test_at_the_newest_revision_nothing_happens(database_url: URL) -> None:
    await migrate(database_url)
    await migrate(database_url)


async def test_they_go_down_again(database_url: URL) -> None:
    await migrate(database_url)
    engine = open_engine(database_url)

    def downgrade(connection: sa.Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    async with engine.begin() as connection:
        await connection.run_sync(downgrade)
    await engine.dispose()
    assert await _tables(database_url) == {"alembic_version"}


async def test_a_migration_that_breaks_off_leaves_nothing(database_url: URL) -> None:
    engine = open_engine(database_url)

    def broken(connection: sa.Connection) -> None:
        lock_for_migrations(connection)
        METADATA.create_all(connection)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        async with engine.begin() as connection:
            await connection.run_sync(broken)
    await engine.dispose()
    assert await _tables(database_url) == set()
    await migrate(database_url)


async def test_a_database_of_a_newer_version_is_left_alone(database_url: URL) -> None:
    await migrate(database_url)
    engine = open_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    with pytest.raises(CommandError, match="9999"):
        await migrate(database_url)
    address = database_url.render_as_string(hide_password=False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.auth"),
        env=ENVIRONMENT | {"TURNPIKE_AUTH_DATABASE_URL": address, "TURNPIKE_SERVICE_KEY": "0123456789abcdef"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert "9999" in said.decode()


def test_a_wrong_command_by_hand_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == 2
    assert "which command?" in capsys.readouterr().err
