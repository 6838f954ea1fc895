"""What the README says works as it is printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.stack import REPOSITORY, Stack, running_stack
from tests.services.sandbox.files import pdf

_README: Final = (REPOSITORY / "README.md").read_text(encoding="utf-8")
_TIMEOUT_SECONDS: Final = 60.0


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _README, flags=re.DOTALL | re.MULTILINE)


_PROGRAMS: Final = _blocks("python")
_COMMANDS: Final = [
    command for block in _blocks("sh") for command in re.split(r"\n(?=\S)", block) if command.startswith("curl ")
]


@pytest.fixture(scope="module")
def with_chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway as the README's first command starts it."""
    with running_stack(tmp_path_factory.mktemp("readme"), {"CHROMA_BASE_URL": ""}) as running:
        yield running


def _environment(stack: Stack) -> dict[str, str]:
    variables = {"TURNPIKE_URL": stack.url, "TURNPIKE_TOKEN": stack.token, "TURNPIKE_JWT": stack.jwt}
    return {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY / "gen"), "NO_PROXY": "*", "no_proxy": "*"}


def test_the_readme_has_examples() -> None:
    assert [
        bool(re.search(name, program)) for name, program in zip(("openai", "chroma", "grpc"), _PROGRAMS, strict=True)
    ]
    assert len(_COMMANDS) == 5


@pytest.mark.parametrize("program", _PROGRAMS, ids=("openai", "chroma", "grpc"))
def test_a_program_works(with_chroma: Stack, tmp_path: Path, program: str) -> None:
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=_environment(with_chroma),
        timeout=_TIMEOUT_SECONDS,
        check=True,
    )


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_command_works(with_chroma: Stack, tmp_path: Path, command: str) -> None:
    (tmp_path / "document.pdf").write_bytes(pdf("What a README sends"))
    checked = command.replace("curl ", "curl -sS --fail-with-body ", 1)
    answer = subprocess.run(
        ["bash", "-c", checked],
        cwd=tmp_path,
        env=_environment(with_chroma),
        timeout=_TIMEOUT_SECONDS,
        check=True,
        capture_output=True,
    ).stdout
    assert answer
