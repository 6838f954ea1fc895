"""Refuses calls beyond the number that one process serves well."""

from __future__ import annotations

from typing import Any

from common.errors import RateLimited
from common.request import Call
from common.serving.interceptor import Context, Proceed
from common.serving.routes import Route


class LimitInterceptor:
    """Serves at most ``max_concurrent_calls`` calls at once, and refuses further ones with 429 and Retry-After."""

    def __init__(self, max_concurrent_calls: int) -> None:
        self._free = max_concurrent_calls

    async def __call__(self, route: Route, call: Call, context: Context, proceed: Proceed) -> Any:
        """Serve the call; raises RateLimited when there are too many already."""
        if self._free <= 0:
            raise RateLimited(
                "The gateway serves as many requests as it can; try again.",
                code="too_many_concurrent_requests",
                headers={"retry-after": "1"},
            )
        self._free -= 1
        try:
            return await proceed(call, context)
        finally:
            self._free += 1
