"""Stacks that the end-to-end tests share, because each takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway with its defaults; tests use users, tokens and request ids of their own."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
