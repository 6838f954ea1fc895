"""Ports of tests are outside of the kernel's ephemeral range, and nobody else gets them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import ephemeral_range, reserved_ports, usable_ports

REPOSITORY = Path(__file__).parents[1]


def test_they_are_outside_of_the_ephemeral_range() -> None:
    with reserved_ports(9) as ports:
        assert len(ports) == 9
        assert not set(ports) & set(ephemeral_range())


@pytest.mark.parametrize(
    ("ephemeral", "usable"),
    [
        (range(32768, 61000), range(10_000, 32768)),
        (range(49152, 65536), range(10_000, 49152)),
        (range(10_000, 60_000), range(60_000, 65536)),
        (range(1024, 65536), range(10_000, 65536)),
    ],
)
def test_the_larger_part_beside_the_range_is_used(ephemeral: range, usable: range) -> None:
    assert usable_ports(ephemeral) == usable


def test_the_range_is_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "range").write_text("40000\t50000\n")
    assert ephemeral_range(tmp_path / "range") == range(40_000, 50_001)
    assert ephemeral_range(tmp_path / "none") == range(49_152, 65_536)


def test_no_port_is_given_twice() -> None:
    with reserved_ports(3) as ports:
        with pytest.raises(RuntimeError, match="no 1 free ports"), reserved_ports(usable=ports):
            pass
        program = f"from tests.ports import reserved_ports\nwith reserved_ports(usable={ports!r}): pass"
        other = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=False)
        assert b"no 1 free ports" in other.stderr
    with reserved_ports(3, usable=ports) as again:
        assert again == ports


def test_a_port_on_which_somebody_listens_is_not_given() -> None:
    with reserved_ports(2) as ports:
        pass
    with socket.create_server(("127.0.0.1", ports[0])), reserved_ports(usable=ports) as given:
        assert list(given) == [ports[1]]
