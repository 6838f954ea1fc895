"""What a test starts ends with the test run, however that ends."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
STARTS_A_CHILD = """
import subprocess, sys
from tests.tied import tied
program = "import signal; print('runs', flush=True); signal.pause()"
child = subprocess.Popen(tied([sys.executable, "-c", program]))
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ties to a parent's life are Linux's")
def test_a_sigkill_of_the_test_run_ends_its_children() -> None:
    command = [sys.executable, "-c", STARTS_A_CHILD]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        lines = [run.stdout.readline(), run.stdout.readline()]
        assert "runs\n" in lines
        child = os.pidfd_open(next(int(line) for line in lines if line != "runs\n"))
        run.kill()
        with os.fdopen(child, "rb") as death:
            assert select.select([death], [], [], 15)[0]
