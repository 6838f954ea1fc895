"""What a process that stays resident must not load: each costs memory that an idle gateway holds for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import REPOSITORY

_OF_NO_SERVICE = ("pandas", "pyarrow", "alembic", "sqlalchemy", "opentelemetry.sdk", "opentelemetry.exporter")
"""Libraries of data frames, and those that only a migration, PostgreSQL or a configured export need."""
_PROVIDERS_CLIENT = ("aiohttp",)
"""Needed only by services that ask providers."""
_LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print("\\n".join(sys.modules))
"""
_STORE = """
import asyncio, sys
from pathlib import Path
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.connections import embedded
from services.usage.migrations import Place
from services.usage.summaries import Everyone
from tests.services.usage.builders import event

async def use():
    place = Place(database="turnpike", dataset="events")
    async with ClickHouseStore(embedded(Path(sys.argv[1])), place=place) as store:
        await store.insert([event()], batch_id="one")
        return await store.summarize(Everyone(), since_ms=0, until_ms=2**42)

assert asyncio.run(use()).totals.requests == 1
print("\\n".join(sys.modules))
"""


def _loaded(program: str, argument: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", program, argument],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}", "TZ": "UTC"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        ("services.auth.__main__", (*_OF_NO_SERVICE, *_PROVIDERS_CLIENT, "fastapi")),
        ("services.chat.__main__", (*_OF_NO_SERVICE, "fastapi")),
        ("services.chroma.__main__", (*_OF_NO_SERVICE, "fastapi")),
        ("services.ocr.__main__", (*_OF_NO_SERVICE, "fastapi")),
        ("services.usage.__main__", (*_OF_NO_SERVICE, *_PROVIDERS_CLIENT, "fastapi", "chdb")),
        ("services.sandbox.__main__", (*_OF_NO_SERVICE, *_PROVIDERS_CLIENT, "grpc", "google.protobuf")),
        ("deploy.local.runner", (*_OF_NO_SERVICE, *_PROVIDERS_CLIENT, "fastapi", "grpc", "pydantic", "asyncio")),
    ],
)
def test_a_process_does_not_load_what_it_does_not_use(module: str, needless: tuple[str, ...]) -> None:
    assert sorted(_loaded(_LOADED, module) & set(needless)) == []


def test_storing_and_reading_usage_loads_no_data_frames(tmp_path: Path) -> None:
    assert sorted(_loaded(_STORE, str(tmp_path / "clickhouse")) & {"pandas", "pyarrow"}) == []
