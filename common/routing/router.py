"""Chooses where a request goes, and is the only one who repeats a request."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from common.dialects.dialect import Dialect, InferenceRequest, Reader
from common.errors import TurnpikeError, Unavailable
from common.metering.account import Account
from common.metering.record import Attempt
from common.providers.provider import Verdict
from common.routing.deployment import Deployment
from common.routing.routed_answer import RoutedAnswer
from common.upstream.http import UnreachableError

_ATTEMPTS: Final = 2
_BACKOFF_SECONDS: Final = 0.25


@dataclass(slots=True)
class Exchange:
    """A request on its way to a provider; ``headers`` go with it. ``reader`` reads the answer of the latest attempt."""

    dialect: Dialect
    request: InferenceRequest
    headers: dict[str, str]
    reader: Reader


class Router:
    """Asks ``deployments``.

    A request is repeated only when its provider's verdict is that nothing of it was seen, so that nothing is ever
    asked, and billed, twice. ``hint`` tells the operator what to set when there is no deployment.
    """

    def __init__(
        self,
        deployments: Sequence[Deployment],
        *,
        hint: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._deployments = deployments
        self._hint = hint
        self._sleep = sleep
        self._jitter = jitter
        self._clock = clock

    def candidates(self, dialect: Dialect) -> Sequence[Deployment]:
        """Return the deployments that can answer, the first choice first; raises Unavailable when there is none."""
        found = [each for each in self._deployments if dialect.name in each.provider.speaks]
        if not found:
            raise Unavailable(f"No provider is configured: {self._hint}.", code="no_provider")
        return found

    async def begin(self, exchange: Exchange, account: Account) -> RoutedAnswer:
        """Return an answer that has begun, which the caller closes.

        Raises UpstreamFailed, UpstreamTimeout, or Unavailable when there is no provider or the attempt cannot be
        metered.
        """
        deployment = self.candidates(exchange.dialect)[0]
        for number in range(1, _ATTEMPTS + 1):
            attempt = account.attempt(deployment.provider.name, deployment.model)
            started = self._clock()
            try:
                return await self._attempt(deployment, exchange, attempt)
            except TurnpikeError as error:
                if number == _ATTEMPTS or deployment.provider.verdict(error) is Verdict.PASS_ON:
                    raise
            finally:
                attempt.milliseconds = round((self._clock() - started) * 1000)
            await self._sleep(self._jitter() * _BACKOFF_SECONDS)
        raise AssertionError("unreachable")  # pragma: no cover - the loop returns or raises

    async def _attempt(self, deployment: Deployment, exchange: Exchange, attempt: Attempt) -> RoutedAnswer:
        provider, request = deployment.provider, exchange.request
        # Until the provider says otherwise: whoever has seen a request may bill it.
        attempt.may_be_billed = True
        try:
            response = await deployment.client.post(
                provider.url(exchange.dialect.name),
                body=request.body(model=deployment.model or request.model, ask_usage=provider.asks_usage),
                headers={**provider.headers, **exchange.headers},
            )
        except UnreachableError:
            attempt.may_be_billed = False
            raise
        attempt.status = response.status
        attempt.may_be_billed = HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES
        exchange.reader = request.reader()
        answer = RoutedAnswer(response, provider=provider, reader=exchange.reader)
        try:
            await answer.begin(request)
        except BaseException:
            response.close()
            raise
        attempt.status = answer.status
        attempt.may_be_billed = not answer.refused
        return answer
