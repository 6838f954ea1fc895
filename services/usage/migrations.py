"""Brings the database to the tables of ``schema/``: numbered files, each run once for each dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from clickhouse_connect.driver import Client

_SCHEMA: Final = Path(__file__).parent / "schema"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tables are and how they are kept; every string is an identifier that the settings have checked."""

    database: str
    dataset: str
    cluster: str = ""
    raw_days: int = 400


def migrate(client: Client, *, place: Place) -> list[int]:
    """Make the database, run the files that are new to it, set the retention; returns their numbers.

    Safe to run by several processes at once: every statement may be repeated. Blocks.
    """
    words = {"db": place.database, "dataset": place.dataset, "raw_days": str(place.raw_days)}
    words |= _make_database(client, place=place)
    files = {int(path.name[:4]): path for path in sorted(_SCHEMA.glob("[0-9][0-9][0-9][0-9]_*.sql"))}
    _run(client, path=files.pop(0), words=words)
    applied = _applied(client, place=place)
    new = [number for number in files if number not in applied]
    for number in new:
        _run(client, path=files[number], words=words)
        client.command(
            f"INSERT INTO `{place.database}`.schema_migrations (dataset, version, name) "  # noqa: S608 - checked
            f"VALUES ('{place.dataset}', {number}, '{files[number].stem}')"
        )
        _log.info("applied a migration", dataset=place.dataset, migration=files[number].stem)
    _retain(client, place=place, on_cluster=words["on_cluster"])
    return new


def _make_database(client: Client, *, place: Place) -> dict[str, str]:
    """Return the words for ON CLUSTER and Replicated: none of them on one server, which embedded chDB is too."""
    on_cluster = f"ON CLUSTER '{place.cluster}'" if place.cluster else ""
    engine = client.command(
        "SELECT engine FROM system.databases WHERE name = {name:String}", parameters={"name": place.database}
    )
    if not isinstance(engine, str) or not engine:
        # Asked first, because a user of the server may use a database without being allowed to make one.
        client.command(f"CREATE DATABASE IF NOT EXISTS `{place.database}` {on_cluster}")
    if engine == "Replicated":
        return {"on_cluster": "", "repl": "Replicated"}
    return {"on_cluster": on_cluster, "repl": "Replicated" if on_cluster else ""}


def _run(client: Client, *, path: Path, words: dict[str, str]) -> None:
    for statement in path.read_text("utf-8").split(";\n"):
        if statement.strip():
            client.command(statement.format_map(words))


def _applied(client: Client, *, place: Place) -> set[int]:
    answer = client.query(
        f"SELECT version FROM `{place.database}`.schema_migrations "  # noqa: S608 - checked by the settings
        "WHERE dataset = {dataset:String}",
        parameters={"dataset": place.dataset},
    )
    return {int(row[0]) for row in answer.result_rows}


def _retain(client: Client, *, place: Place, on_cluster: str) -> None:
    """Bring the table's TTL to the setting, which may have changed since the table was made."""
    made = client.command(
        "SELECT create_table_query FROM system.tables WHERE database = {database:String} AND name = {name:String}",
        parameters={"database": place.database, "name": place.dataset},
    )
    if f"toIntervalDay({place.raw_days})" not in str(made):
        client.command(
            f"ALTER TABLE `{place.database}`.`{place.dataset}` {on_cluster} "
            f"MODIFY TTL toDateTime(ts) + toIntervalDay({place.raw_days}) DELETE"
        )
        _log.info("changed the retention", dataset=place.dataset, days=place.raw_days)
