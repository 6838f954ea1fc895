"""What a service declares about each of its RPCs, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.errors import TurnpikeError, openai_body
from common.identity.principal import Requirement

ErrorBody = Callable[[TurnpikeError], bytes]
"""Returns an error as the ASCII body of an HTTP answer, in one dialect."""


@dataclass(frozen=True, slots=True)
class Route:
    """One RPC: its name (``/package.Service/Method``), what its callers need, and how it is served.

    ``passed_through`` is for RPCs of google.api.HttpBody whose servicer takes a BodyView, writes serialized messages
    and returns the last of them: see common/serving/http_body.py. ``error_body`` is the dialect of its HTTP errors.
    """

    rpc: str
    requirement: Requirement
    passed_through: bool = False
    error_body: ErrorBody = openai_body

    @property
    def service(self) -> str:
        """The full name of the RPC's service."""
        return self.rpc.split("/")[1]


def services_of(routes: Iterable[Route]) -> tuple[str, ...]:
    """Return the full names of the routes' services, each once."""
    return tuple(dict.fromkeys(route.service for route in routes))
