"""Tests that share a server run in one process, and a test that hangs ends the whole run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution import place, unit_of

REPOSITORY = Path(__file__).parents[1]
_HANGS = """
import subprocess, sys
from tests.tied import tied
def test_that_hangs():
    subprocess.run(tied([sys.executable, "-c", "import signal; signal.pause()"]))
"""


@pytest.mark.parametrize(
    ("test", "unit"),
    [
        ("tests/e2e/test_edge.py::test_x[a::b]", "tests/e2e/"),
        ("tests/e2e/test_exactness.py::test_x", "tests/e2e/test_exactness.py"),
        ("tests/services/auth/test_store.py::test_x", "tests/services/auth/"),
        ("tests/common/test_x.py::test_x", "tests/common/test_x.py::test_x"),
    ],
)
def test_a_folder_whose_tests_share_a_server_runs_in_one_process(test: str, unit: str) -> None:
    assert unit_of(test) == unit


def test_the_slowest_come_first_and_the_others_in_their_order() -> None:
    tests = ["tests/common/b::x", "tests/e2e/test_exactness.py::x", "tests/common/a::x", "tests/e2e/test_edge.py::x"]
    assert sorted(tests, key=place) == [tests[3], tests[1], tests[0], tests[2]]


def test_a_test_that_hangs_ends_the_run_with_its_stack(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(_HANGS)
    settings = ("-c", str(REPOSITORY / "pyproject.toml"), "-o", "faulthandler_timeout=1", "-o", f"cache_dir={tmp_path}")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "--max-worker-restart", "0", *settings, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 1, run.stdout
    assert "in test_that_hangs" in run.stderr
    assert "worker restarting disabled" in run.stdout
