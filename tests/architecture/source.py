"""The project's own Python files, as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Module:
    """A file, by its path from the repository's root."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The name by which it is imported."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def text(self) -> str:
        """What is in it."""
        return (REPOSITORY / self.path).read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text, str(self.path))

    @property
    def imports(self) -> Iterator[str]:
        """The full name of all that it imports, wherever in the file; ``from a import b`` counts as a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self} imports relatively"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(*folders: str) -> list[Module]:
    """Return every module under these folders."""
    paths = (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return sorted((Module(path.relative_to(REPOSITORY)) for path in paths), key=str)


def services() -> list[str]:
    """Return the names of all services."""
    folders = (REPOSITORY / "services").iterdir()
    return sorted(path.name for path in folders if path.is_dir() and any(path.glob("*.py")))
