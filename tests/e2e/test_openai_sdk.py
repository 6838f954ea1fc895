"""The OpenAI SDK, the current major and the one before it, against the gateway."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.stack import REPOSITORY, Stack


@pytest.mark.parametrize("major", [3, 2])
def test_the_openai_sdk_works_by_changing_the_base_url_alone(stack: Stack, major: int) -> None:
    path = [str(REPOSITORY / ".venv" / "sdk-previous")] if major == 2 else []
    unscoped = stack.new_token("sdk", scopes=["usage"])["token"]
    run = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests/e2e/openai_sdk.py"), stack.url, stack.token, unscoped],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{major}." in run.stdout.splitlines()[-1]
    assert run.stdout.splitlines()[-1].endswith("asynchronous ok")
