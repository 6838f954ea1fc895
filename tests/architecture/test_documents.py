"""Documents name tests, files and variables that are there, and decisions have one form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import common
from deploy.settings_reference import PAGE
from tests.architecture.source import REPOSITORY

_COMPATIBILITY: Final = (REPOSITORY / "docs" / "compatibility.md").read_text(encoding="utf-8")
_DECISIONS: Final = sorted((REPOSITORY / "docs" / "adr").glob("*.md"))
_DOCUMENTS: Final = sorted(
    path
    for folder in ("docs", "services", "deploy", ".")
    for path in (REPOSITORY / folder).glob("*.md" if folder == "." else "**/*.md")
)
_HEAD: Final = re.compile(r"# (\d+)\. .+\n\nDate: 20\d\d-\d\d-\d\d\. Status: (accepted|superseded)\b.*\n\n## Context\n")
_VARIABLE: Final = re.compile(
    r"\b(?:(?:TURNPIKE|OPENAI|MISTRAL|CHROMA|CLICKHOUSE|ANALYTICS|OTEL|SSL_CERT|API|[A-Z]+_API)_[A-Z_]*[A-Z]"
    r"|[A-Z]+_PROXY)\b"
)
_FILE: Final = re.compile(r"`([\w.-]+/[\w./-]+\.(?:py|lua|yaml|proto|sql|in|txt|md))`")
_SET_BY_US: Final = ("TURNPIKE_URL", "TURNPIKE_TOKEN", "TURNPIKE_JWT")
"""What `make up` writes for its user's shell."""


def _name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _tests() -> list[tuple[str, str]]:
    found, file = [], ""
    for name in re.findall(r"`([\w/.:]+)`", _COMPATIBILITY):
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
    text = (REPOSITORY / "tests" / file).read_text(encoding="utf-8")
    assert not test or f"def {test}(" in text


def test_the_document_names_tests() -> None:
    assert len(_tests()) > 40


@pytest.mark.parametrize("document", _DOCUMENTS, ids=_name)
def test_a_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    ours = [link for link in links if not re.match(r"https?://", link)]
    assert [link for link in ours if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", [path for path in _DOCUMENTS if path not in _DECISIONS], ids=_name)
def test_a_variable_that_a_document_names_is_read(document: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = set(_VARIABLE.findall(document.read_text(encoding="utf-8"))) - set(_SET_BY_US)
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("document", [path for path in _DOCUMENTS if path not in _DECISIONS], ids=_name)
def test_a_file_that_a_document_names_is_there(document: Path) -> None:
    named = set(_FILE.findall(document.read_text(encoding="utf-8")))
    roots = (REPOSITORY, REPOSITORY / "tests", document.parent)
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []


@pytest.mark.parametrize("decision", _DECISIONS, ids=_name)
def test_a_decision_has_number_date_status_context_decision_and_consequences(decision: Path) -> None:
    text = decision.read_text(encoding="utf-8")
    head = _HEAD.match(text)
    assert head, "begins with its number and title, its date and status, and its context"
    assert int(decision.name[:4]) == int(head[1])
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Context",
        "## Decision",
        "## Consequences",
    ]


def test_each_decision_has_a_number_of_its_own() -> None:
    assert [int(path.name[:4]) for path in _DECISIONS] == list(range(1, len(_DECISIONS) + 1))


def test_a_decision_that_the_code_names_is_there() -> None:
    files = [
        path for folder in ("common", "services", "deploy", "tests") for path in (REPOSITORY / folder).rglob("*.py")
    ]
    named = {number for path in files for number in re.findall(r"docs/adr/(\d{4})", path.read_text(encoding="utf-8"))}
    assert named
    assert named <= {path.name[:4] for path in _DECISIONS}


def test_commons_docstring_lists_what_is_in_it() -> None:
    folder = REPOSITORY / "common"
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(re.findall(r"^    (\w+) ", common.__doc__ or "", flags=re.MULTILINE)) == parts - {"__init__"}
