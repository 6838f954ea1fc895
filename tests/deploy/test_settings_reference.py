"""docs/configuration.md says what the settings classes say."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import AliasChoices, Field, SecretStr

from common.settings import Settings
from deploy.local.environment import CHILDREN
from deploy.local.environment import variables_of as names_of
from deploy.settings_reference import PAGE, Program, programs, render, variables_of


class Shared(Settings):
    """What two programs read."""

    seconds: float = Field(600.0, gt=0, le=3600, validation_alias="MADE_UP_SECONDS")
    """How long
    something takes."""


class Made(Shared):
    """The settings of one program."""

    key: SecretStr = Field(SecretStr("hush"), min_length=16, validation_alias=AliasChoices("MADE_UP_KEY", "OTHER_KEY"))
    """A <key>; `a|b`."""
    level: str = Field("low", pattern="^(low|high)$", validation_alias="MADE_UP_LEVEL")
    """How much."""
    least: int = Field(ge=1 << 20, validation_alias="MADE_UP_LEAST")
    """A size."""
    on: bool = Field(default=True, validation_alias="MADE_UP_ON")
    """A switch."""


class Other(Shared):
    """The settings of another program, which reads one variable of the first."""

    level: str | None = Field(None, validation_alias="MADE_UP_LEVEL")
    """Looked at."""
    file: Path | None = Field(None, validation_alias="MADE_UP_FILE")
    """A file."""


def _rows(page: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `MADE_UP")]
    return {cells[0]: cells[1:] for cells in lines}


def test_a_variable_is_shown_once_with_its_default_values_effect_and_readers() -> None:
    rows = _rows(render([Program(name="made", settings=(Made,)), Program(name="other", settings=(Other,))]))
    assert rows == {
        "`MADE_UP_SECONDS`": ["`600`", "number, more than 0, at most 3600", "How long something takes.", "made, other"],
        "`MADE_UP_KEY` or `OTHER_KEY`": ["`hush`", "secret, at least 16 characters", r"A \<key>; `a\|b`.", "made"],
        "`MADE_UP_LEVEL`": ["`low`", "`low`, `high`", "How much.", "made, other"],
        "`MADE_UP_LEAST`": ["none: it must be set", "whole number, at least 1048576", "A size.", "made"],
        "`MADE_UP_ON`": ["`1`", "`1` or `0`", "A switch.", "made"],
        "`MADE_UP_FILE`": ["not set", "path", "A file.", "other"],
    }


class Mute(Settings):
    """A field whose effect nobody wrote down."""

    silent: str = Field("", validation_alias="MADE_UP_SILENT")


def test_a_field_without_a_docstring_is_refused() -> None:
    with pytest.raises(ValueError, match="Mute has fields without a docstring: silent"):
        variables_of(Mute)


def test_every_variable_that_a_child_of_a_stack_reads_is_on_the_page() -> None:
    page = render(programs())
    wanted = {name for reads in CHILDREN.values() for name in names_of(reads.settings)}
    assert len(wanted) > 40
    assert [name for name in sorted(wanted) if f"`{name}`" not in page] == []


def test_the_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(programs()), "run `make docs`"
