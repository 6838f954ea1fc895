"""What all tests share: how property tests choose their examples, free ports, and processes that share the work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import xdist
from hypothesis import settings

from tests.distribution import Scheduling, place
from tests.ports import reserved_ports

# `make test` tries the same examples each time, so that it never fails for a finding that is new: more of them would
# find nothing that `make explore` does not, and cost a minute.
settings.register_profile("fixed", derandomize=True, max_examples=50, deadline=None)
# `make explore` looks for new ones: it names this profile on the command line, which wins over the line below.
settings.register_profile("explore", max_examples=1_000, deadline=None, print_blob=True)
settings.load_profile("fixed")


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    """Distribute the tests by our rules; pytest-xdist calls this where there are several processes."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Put the slow ones first where several processes share the work: it is given out in this order."""
    if xdist.is_xdist_worker(session):
        items.sort(key=lambda item: place(item.nodeid))


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody listens on, and that no other test gets."""
    with reserved_ports() as ports:
        yield ports[0]
