"""Documents that name tests name tests that are there."""

from __future__ import annotations

import re

import pytest

from tests.architecture.source import REPOSITORY

_SEED = (REPOSITORY / "docs" / "first-seed.md").read_text()


def _tests() -> list[tuple[str, str]]:
    found, file = [], ""
    for name in re.findall(r"`([\w/.:]+)`", _SEED):
        path, _, test = name.rpartition("::") if "::" in name else ("", "", name)
        if path or name.endswith(".py"):
            file = path or name
            test = test if path else ""
        elif not test.startswith("test_"):
            continue
        found.append((file, test))
    return found


@pytest.mark.parametrize(("file", "test"), _tests())
def test_a_test_that_a_document_names_is_there(file: str, test: str) -> None:
    text = (REPOSITORY / "tests" / file).read_text()
    assert not test or f"def {test}(" in text


def test_the_document_names_tests() -> None:
    assert len(_tests()) > 40
