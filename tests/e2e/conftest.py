"""Stacks that the end-to-end tests share, because each takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway with its defaults; tests use users, tokens and request ids of their own."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


PRICES: Final = """
version: of-the-test
models:
  - name: priced
    provider: sandbox
    input: "2.5005"
    output: 10.0005
"""
"""A made-up price table: half a nano-dollar is at stake in each, so that rounding shows."""


@pytest.fixture(scope="session")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway with a usage key, a proxy key, prices of its own and chats for everybody."""
    directory = tmp_path_factory.mktemp("closed")
    prices = directory / "prices.yaml"
    prices.write_text(PRICES)
    settings = {
        "USAGE_API_KEY": "usage-key-of-the-test",
        "PROXY_API_KEY": "proxy-key",
        "API_AUTH_REQUIRED": "0",
        "TURNPIKE_PRICES": str(prices),
        "TURNPIKE_USAGE_ROLLUP_SECONDS": "1",
        "TURNPIKE_AUTH_CACHE_SECONDS": "2",
    }
    with running_stack(directory / "state", settings) as running:
        yield running
