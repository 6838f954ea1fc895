"""How long a month's summary takes over hourly rows, compared with a plain scan of the same events.

The events are in a database of their own, in a process of its own: python -m bench.usage <directory>.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.children import ChildDied
from bench.plan import Plan
from bench.report import Row
from bench.stack import Stack
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.connections import Connect, embedded
from services.usage.migrations import Place
from services.usage.queries import event_sums
from services.usage.summaries import Everyone, OneUser, Summary, Sums, sum_names, sums_of_row

_EVENTS: Final = 10_000_000
_PARTS: Final = 10
_DAY_MS: Final = 24 * 3_600_000
_DAYS: Final = 30
_SCAN_SHARE_AT_MOST: Final = 0.2
_PLACE: Final = Place(database="turnpike", dataset="bench")
_USER: Final = OneUser("user-7")

# A thousand users, a few of whom ask for most; each uses two of 20 models; a model has one provider, path and type.
# Ids are made in the order of time, as they are in life.
_LOAD: Final = """
INSERT INTO turnpike.bench (event_id, request_id, user_id, token_id, service, type, method, path, provider, model,
  upstream_model, status, stream, outcome, usage_source, uncached_input_tokens, cache_read_tokens, text_output_tokens,
  total_tokens, input_cost_nanousd, output_cost_nanousd, priced, price_version, attempts, bytes_in, bytes_out,
  latency_ms, first_byte_ms)
SELECT dateTimeToUUIDv7(toDateTime(intDiv({since} + intDiv(n * {span}, {events}), 1000), 'UTC')), toString(a),
  concat('user-', toString(user)), toString(user), kind, kind, 'POST', concat('/v1/', kind),
  concat('provider-', toString(model % 4)), concat('model-', toString(model)), concat('model-', toString(model), '-1'),
  if(b % 50 = 0, 500, 200), b % 2 = 0, if(b % 50 = 0, 'failed', 'completed'), 'provider',
  a % 3000, b % 1000, c % 800, a % 3000 + b % 1000 + c % 800, (a % 3000) * 2500, (c % 800) * 10000, model != 5, 'v',
  1, a % 9000, b % 90000, c % 5000, c % 900
FROM (
  SELECT n, cityHash64(n) AS a, cityHash64(n, 2) AS b, cityHash64(n, 3) AS c,
    toUInt32(1000 * pow(cityHash64(n, 4) % 1000000 / 1000000, 2)) AS user,
    cityHash64(user, cityHash64(n, 5) % 2) % 20 AS model, ['chat', 'chat', 'embeddings', 'ocr'][1 + model % 4] AS kind
  FROM (SELECT number + {first} AS n FROM numbers({count})))
"""
_SCAN: Final = f"""
SELECT grouping(model, path, type, provider) AS part, model, path, type, provider, {event_sums()}
FROM turnpike.bench AS e FINAL
WHERE ts >= fromUnixTimestamp64Milli({{since:Int64}}, 'UTC') AND ts < fromUnixTimestamp64Milli({{until:Int64}}, 'UTC')
GROUP BY GROUPING SETS ((), (model), (path), (type), (provider))
ORDER BY part, requests DESC, model, path, type, provider
LIMIT 100 BY part
"""  # noqa: S608 - our own columns


async def usage(_stack: Stack, plan: Plan) -> list[Row]:
    """Compare both over ten million events, in a child: chDB takes memory that the other measurements look at."""
    with tempfile.TemporaryDirectory(prefix="turnpike-bench-usage-") as directory:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.usage",
            directory,
            str(plan.rounds),
            stdout=asyncio.subprocess.PIPE,
            # Days and hours are UTC's, also where the engine is not asked about them.
            env={**os.environ, "TZ": "UTC"},
        )
        try:
            output, _ = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    if child.returncode:
        raise ChildDied(f"bench.usage ended with status {child.returncode}")
    return [_row(json.loads(output.splitlines()[-1]))]


def _row(found: dict[str, Any]) -> Row:
    scan, hybrid = median(found["scan"]), median(found["hybrid"])
    return Row(
        "summary of 30 days over 10 million events, warm, as a share of a plain scan's time",
        f"{hybrid / scan:.3f} (x{scan / hybrid:.0f})",
        target=f"<= {_SCAN_SHARE_AT_MOST}, and the same numbers",
        passed=found["equal"] and hybrid / scan <= _SCAN_SHARE_AT_MOST,
        raw=(
            *(f"{name} {median(found[name]):.0f} ms: {_each(found[name])}" for name in ("scan", "hybrid")),
            f"a user's own {median(found['own']):.0f} ms, days {median(found['days']):.0f} ms",
            f"loading {found['load']:.0f} s, the first rollup {found['rollup']:.1f} s, "
            f"{found['hourly_rows']:,} hourly rows in {found['hourly_mib']:.0f} MiB beside {found['mib']:.0f} MiB",
        ),
    )


def _each(milliseconds: list[float]) -> str:
    return " ".join(f"{value:.0f}" for value in milliseconds)


async def main(directory: Path, *, rounds: int) -> dict[str, Any]:
    """Load, roll up and measure; returns milliseconds of each round, A B A B."""
    connect = embedded(directory / "clickhouse")
    found: dict[str, Any] = {"scan": [], "hybrid": [], "own": [], "days": []}
    async with ClickHouseStore(connect, place=_PLACE, overlap_seconds=0) as store:
        until = time.time_ns() // 1_000_000
        since = until - _DAYS * _DAY_MS
        begun = time.monotonic()
        await asyncio.to_thread(_load, connect, since=since)
        found["load"] = time.monotonic() - begun
        begun = time.monotonic()
        await store.roll_up(now_ms=until)
        found["rollup"] = time.monotonic() - begun
        days = [until // _DAY_MS * _DAY_MS - ago * _DAY_MS for ago in reversed(range(_DAYS))]
        client = connect()
        measures: dict[str, Callable[[], Awaitable[Any]]] = {
            "scan": lambda: asyncio.to_thread(client.query, _SCAN, parameters={"since": since, "until": until}),
            "hybrid": lambda: store.summarize(Everyone(), since_ms=since, until_ms=until),
            "own": lambda: store.summarize(_USER, since_ms=since, until_ms=until),
            "days": lambda: store.slices(Everyone(), edges_ms=[*days, until]),
        }
        answers = {name: await measure() for name, measure in measures.items()}
        for _ in range(rounds):
            for name, measure in measures.items():
                begun = time.monotonic()
                await measure()
                found[name].append((time.monotonic() - begun) * 1000)
        found["equal"] = _equal(answers["scan"].result_rows, answers["hybrid"])
        found |= _sizes(client)
        client.close()
    return found


def _load(connect: Connect, *, since: int) -> None:
    client = connect()
    count = _EVENTS // _PARTS
    for part in range(_PARTS):
        client.command(_LOAD.format(since=since, span=_DAYS * _DAY_MS, events=_EVENTS, first=part * count, count=count))
    client.close()


def _equal(rows: list[list[Any]], summary: Summary) -> bool:
    """Say whether the scan found what the service answers."""
    scanned = {tuple(row[:5]): sums_of_row(row[5:], sum_names()) for row in rows}
    answered: dict[tuple[Any, ...], Sums] = {(0b1111, "", "", "", ""): summary.totals}
    # As grouping() numbers them: a bit for each column that a row does not group by, the first column's highest.
    columns = (summary.models, summary.paths, summary.types, summary.providers)
    for place, groups in enumerate(columns):
        for name, sums in groups:
            names = [name if column == place else "" for column in range(len(columns))]
            answered[(0b1111 & ~(0b1000 >> place), *names)] = sums
    return scanned == answered


def _sizes(client: Any) -> dict[str, float]:
    query = """
SELECT table LIKE '%hourly', sum(rows), sum(bytes_on_disk) / 1048576 FROM system.parts
WHERE active AND database = 'turnpike' AND table LIKE 'bench%' GROUP BY ALL ORDER BY 1"""
    (_, _, mib), (_, rows, hourly_mib) = client.query(query).result_rows
    return {"mib": mib, "hourly_rows": rows, "hourly_mib": hourly_mib}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), rounds=int(sys.argv[2])))))
