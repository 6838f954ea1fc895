"""How long a deleted API token still works, also when auth has just been killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

from bench.connection import Answer, Caller
from bench.gateway import Gateway
from bench.load import LoadFailed, percentiles
from bench.messages import QUESTION, http_request
from bench.plan import Plan
from bench.report import Row
from bench.stack import Stack

_P99_MS_AT_MOST = 100.0
_WARM_REQUESTS = 3
_PATIENCE_SECONDS = 15.0
_TOKENS = "/v1/api-tokens"


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Seconds until the first 401, from when the deletion was answered and from when it was sent."""

    after_answer: float
    after_sending: float


async def revocation(stack: Stack, plan: Plan) -> list[Row]:
    """Delete tokens that chat remembers, and poll until it refuses them."""
    return [_row("", [await _sample(stack.gateway) for _ in range(plan.revocations)])]


async def revocation_after_kill(stack: Stack, plan: Plan) -> list[Row]:
    """Delete with the first DELETE that a killed and restarted auth takes, and once more when all has settled."""
    at_once = [await _sample(stack.gateway, kill=True) for _ in range(plan.kills)]
    await stack.gateway.wait_until_ready()
    later = [await _sample(stack.gateway) for _ in range(plan.revocations)]
    return [
        _row(", by the first DELETE that auth takes after a SIGKILL", at_once),
        _row(", some time after auth was killed and started again", later),
    ]


async def _sample(gateway: Gateway, *, kill: bool = False) -> _Refusal:
    owner, user = Caller(port=gateway.port), Caller(port=gateway.port)
    try:
        answer = await owner.ask(http_request(b'{"name":"revoked"}', credential=gateway.jwt, path=_TOKENS))
        created = json.loads(answer.body)
        question = http_request(QUESTION, credential=created["token"])
        for _ in range(_WARM_REQUESTS):
            if not await _is_served(user, question=question, gateway=gateway):
                raise LoadFailed("a new token was refused")
        if kill:
            gateway.kill("auth")
        async with asyncio.timeout(_PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
            refusal = tasks.create_task(_first_refusal(user, question=question, gateway=gateway))
            deletion = tasks.create_task(_deletion(owner, token_id=created["id"], jwt=gateway.jwt))
        refused, deleted = refusal.result().ended_at, deletion.result()
        if await _is_served(user, question=question, gateway=gateway):
            raise LoadFailed("a deleted token worked again after it had been refused")
        return _Refusal(max(0.0, refused - deleted.ended_at), refused - deleted.sent_at)
    except TimeoutError:
        raise LoadFailed(f"a deleted token was not refused within {_PATIENCE_SECONDS:.0f} s") from None
    finally:
        owner.close()
        user.close()


async def _first_refusal(user: Caller, *, question: bytes, gateway: Gateway) -> Answer:
    while True:
        answer = await user.ask(question)
        if answer.status == 401:
            return answer
        _count(answer, gateway=gateway)


async def _is_served(user: Caller, *, question: bytes, gateway: Gateway) -> bool:
    answer = await user.ask(question)
    if answer.status == 401:
        return False
    _count(answer, gateway=gateway)
    return answer.status == 200


def _count(answer: Answer, *, gateway: Gateway) -> None:
    if answer.status == 200:
        gateway.sent += 1
    elif answer.status != 503:
        # 503: auth is away, and what chat remembered is over.
        raise LoadFailed(f"status {answer.status} while a token was being deleted: {answer.body[:300]!r}")


async def _deletion(owner: Caller, *, token_id: str, jwt: str) -> Answer:
    """Delete, again and again while auth is away, and return the answer that says it is done."""
    request = http_request(b"", credential=jwt, method="DELETE", path=f"{_TOKENS}/{token_id}")
    while True:
        answer = await owner.ask(request)
        if answer.status == 204:
            return answer
        if answer.status != 503:
            raise LoadFailed(f"status {answer.status} for a DELETE: {answer.body[:300]!r}")
        await asyncio.sleep(0.005)


def _row(when: str, refusals: Sequence[_Refusal]) -> Row:
    answered = percentiles([refusal.after_answer * 1000 for refusal in refusals])
    sent = percentiles([refusal.after_sending * 1000 for refusal in refusals])
    return Row(
        f"a deleted token's first refusal{when}, p99 of {len(refusals)}, ms after the DELETE's answer",
        f"{answered['p99']:.1f}",
        target=f"<= {_P99_MS_AT_MOST:g}",
        passed=answered["p99"] <= _P99_MS_AT_MOST,
        raw=(
            f"after its answer p50 {answered['p50']:.1f}, max {answered['max']:.1f} ms",
            f"after its sending p50 {sent['p50']:.1f}, p99 {sent['p99']:.1f}, max {sent['max']:.1f} ms",
        ),
    )
