"""Fills a template: YAML in which a string of the form ``${name}`` stands for a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def fill(node: Any, values: Mapping[str, Any]) -> Any:
    """Return the node with every placeholder replaced; raises KeyError for one that has no value."""
    if isinstance(node, Mapping):
        return {key: fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [fill(item, values) for item in node]
    if isinstance(node, str) and (match := _PLACEHOLDER.fullmatch(node)):
        return values[match[1]]
    return node
