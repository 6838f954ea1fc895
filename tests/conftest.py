"""What all tests share: how property tests choose their examples, and free ports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.ports import reserved_ports

# `make test` tries the same examples each time, so that it never fails for a finding that is new.
settings.register_profile("fixed", derandomize=True, deadline=None)
# `make explore` looks for new ones: it names this profile on the command line, which wins over the line below.
settings.register_profile("explore", max_examples=1_000, deadline=None, print_blob=True)
settings.load_profile("fixed")


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody listens on, and that no other test gets."""
    with reserved_ports() as ports:
        yield ports[0]
