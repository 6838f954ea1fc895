"""The tests of the HTTP client run on the loop that the services run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the loops, as pytest-asyncio's hook wants them."""
    return {"uvloop": uvloop.new_event_loop}
