"""Reads a YAML file whose every error names the file and the line."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import yaml


def read_yaml(path: Path) -> Node:
    """Return the file's content, not yet checked; raises ValueError with the file and the line of what is no YAML."""
    try:
        return Node(path, yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


class Node:
    """A value in a YAML file. Whatever is asked of it raises ValueError with file and line when it is something else.

    ``what`` names the value in such an error: "the table", "a model".
    """

    def __init__(self, path: Path, node: yaml.Node | None) -> None:
        self._path = path
        self._node = node

    @property
    def line(self) -> int:
        """The line at which it begins, counted from 1."""
        return self._node.start_mark.line + 1 if self._node else 1

    def error(self, problem: str) -> ValueError:
        """Return the error that says what is wrong here."""
        return ValueError(f"{self._path}:{self.line}: {problem}")

    def fields(self, *, known: Collection[str], what: str) -> dict[str, Node]:
        """Return the fields of a mapping, of which each is known and there once."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error(f"{what} must be a mapping")
        fields: dict[str, Node] = {}
        for key, value in self._pairs(self._node):
            name = key.scalar or ""
            if name not in known:
                raise key.error(f"{name or 'this key'} is not known in {what}; known are {', '.join(sorted(known))}")
            if name in fields:
                raise key.error(f"{name} is there twice")
            fields[name] = value
        return fields

    def items(self, *, what: str) -> list[Node]:
        """Return the items of a list."""
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.error(f"{what} must be a list")
        return [Node(self._path, item) for item in self._node.value]

    def text(self, *, what: str) -> str:
        """Return a scalar as it stands in the file, which must not be empty."""
        if self.scalar is None or not self.scalar.strip():
            raise self.error(f"{what} must be text")
        return self.scalar

    @property
    def scalar(self) -> str | None:
        """The text of a scalar as it stands in the file, quoted or not; None for a mapping or a list."""
        return str(self._node.value) if isinstance(self._node, yaml.ScalarNode) else None

    def _pairs(self, node: yaml.MappingNode) -> Iterator[tuple[Node, Node]]:
        for key, value in node.value:
            yield Node(self._path, key), Node(self._path, value)
