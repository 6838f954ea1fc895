"""Background loops: whatever a step does, the loop goes on, says so, and shows it in the health."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from common.background import BackgroundLoop, Health

_NEVER = 10_000.0


class Steps:
    """A step that does one thing after the other, and the last again and again."""

    def __init__(self, *does: Callable[[], None] | BaseException | None) -> None:
        self._does = [*does]
        self.count = 0
        self._counted = asyncio.Condition()

    async def __call__(self) -> None:
        one = self._does.pop(0) if len(self._does) > 1 else self._does[0]
        async with self._counted:
            self.count += 1
            self._counted.notify_all()
        if isinstance(one, BaseException):
            raise one
        if one is not None:
            one()

    async def reach(self, count: int) -> None:
        """Return once so many steps have begun."""
        async with self._counted:
            await self._counted.wait_for(lambda: self.count >= count)


def a_loop(steps: Steps, *, health: Health | None = None, interval_seconds: float = 0.0) -> BackgroundLoop:
    return BackgroundLoop(
        "shipper",
        steps,
        interval_seconds=interval_seconds,
        health=health,
        failures_at_most=3,
        retry_at_first_seconds=0.0,
    )


async def test_the_first_step_runs_at_once_and_the_next_after_the_interval() -> None:
    steps = Steps(None)
    async with a_loop(steps, interval_seconds=_NEVER):
        await steps.reach(1)
    assert steps.count == 1
    async with a_loop(steps, interval_seconds=0.01):
        await steps.reach(3)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a bug"), OSError("disk"), asyncio.CancelledError(), TimeoutError()],
    ids=lambda error: type(error).__name__,
)
async def test_no_failure_ends_the_loop_and_each_is_logged_with_its_trace(error: BaseException) -> None:
    steps = Steps(error, error, None)
    with capture_logs() as logs:
        async with a_loop(steps) as loop:
            await steps.reach(4)
            assert loop.failures == 0
    failed = [line for line in logs if line["event"] == "a background loop failed"]
    assert [(line["loop"], line["failures"]) for line in failed] == [("shipper", 1), ("shipper", 2)]
    assert all(line["exc_info"] and line["log_level"] == "error" for line in failed)
    assert logs[-1]["event"] == "a background loop works again"


async def test_health_has_the_loop_after_failures_in_a_row_and_not_after_a_success() -> None:
    health = Health()
    seen: list[frozenset[str]] = []

    def look() -> None:
        seen.append(health.failing)

    def fail() -> None:
        look()
        raise OSError("disk")

    steps = Steps(fail, fail, look, fail, fail, fail, look, look)
    with capture_logs():
        async with a_loop(steps, health=health):
            await steps.reach(9)
    nothing, failing = frozenset[str](), frozenset({"shipper"})
    assert seen[:8] == [nothing, nothing, nothing, nothing, nothing, nothing, failing, nothing]


async def test_a_change_of_health_wakes_who_waits() -> None:
    health = Health()
    waiting = asyncio.create_task(health.wait_for_change())
    await asyncio.sleep(0)
    health.set_failing("a", failing=False)
    await asyncio.sleep(0)
    assert not waiting.done()
    health.set_failing("a", failing=True)
    await waiting
    assert health.failing == {"a"}


async def test_a_step_without_an_end_says_that_it_works() -> None:
    health = Health()
    works = asyncio.Event()
    loop: BackgroundLoop

    async def watch() -> None:
        if loop.failures < 3:
            raise OSError("away")
        assert health.failing == {"watch"}
        loop.succeeded()
        works.set()
        await asyncio.Event().wait()

    loop = BackgroundLoop(
        "watch", watch, interval_seconds=0, health=health, failures_at_most=3, retry_at_first_seconds=0
    )
    with capture_logs():
        async with loop:
            await works.wait()
    assert (health.failing, loop.failures) == (frozenset(), 0)


async def test_leaving_cancels_the_step() -> None:
    began = asyncio.Event()

    async def wait() -> None:
        began.set()
        await asyncio.Event().wait()

    async with BackgroundLoop("wait", wait, interval_seconds=0):
        await began.wait()


async def test_leaving_lets_a_step_end_that_must() -> None:
    began, may_end = asyncio.Event(), asyncio.Event()
    ended: list[bool] = []

    async def work() -> None:
        began.set()
        await may_end.wait()
        ended.append(True)

    loop = BackgroundLoop("work", work, interval_seconds=0, finishes=True)
    async with loop:
        await began.wait()
        asyncio.get_running_loop().call_soon(may_end.set)
    assert ended == [True]


async def test_whoever_is_cancelled_while_it_leaves_is_cancelled_and_so_is_the_step() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    loop = BackgroundLoop("work", work, interval_seconds=0, finishes=True)
    await loop.__aenter__()
    await began.wait()
    leaving = asyncio.create_task(loop.__aexit__())
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await cancelled.wait()


async def test_leaving_raises_what_ended_the_loop() -> None:
    def mistaken() -> float:
        raise ZeroDivisionError

    loop = BackgroundLoop("a", Steps(OSError("disk")), interval_seconds=0, jitter=mistaken)
    await loop.__aenter__()
    assert loop._task is not None
    with capture_logs():
        await asyncio.wait([loop._task])
    with pytest.raises(ZeroDivisionError):
        await loop.__aexit__()


async def test_leaving_does_not_wait_for_a_pause() -> None:
    steps = Steps(None)
    async with asyncio.timeout(30), a_loop(steps, interval_seconds=_NEVER):
        await steps.reach(1)


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    jitters = itertools.cycle([1.0])
    loop = BackgroundLoop(
        "a", Steps(None), interval_seconds=0, retry_at_first_seconds=1, retry_at_most_seconds=5, jitter=jitters.__next__
    )
    with capture_logs():
        assert [loop._failed() for _ in range(5)] == [1, 2, 4, 5, 5]
    half = BackgroundLoop("a", Steps(None), interval_seconds=0, retry_at_first_seconds=1, jitter=lambda: 0.0)
    with capture_logs():
        assert half._failed() == 0.5
