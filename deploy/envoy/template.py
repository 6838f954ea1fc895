"""Fills a template: YAML in which a string of the form ``${name}`` stands for a value.

In a list, ``${*name}`` stands for the items of a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_ITEMS = re.compile(r"\$\{\*(\w+)\}")


def fill(node: Any, values: Mapping[str, Any]) -> Any:
    """Return the node with every placeholder replaced; raises KeyError for one that has no value."""
    if isinstance(node, Mapping):
        return {key: fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [filled for item in node for filled in _items(item, values)]
    if isinstance(node, str) and (match := _PLACEHOLDER.fullmatch(node)):
        return values[match[1]]
    return node


def _items(item: Any, values: Mapping[str, Any]) -> list[Any]:
    match = _ITEMS.fullmatch(item) if isinstance(item, str) else None
    return list(values[match[1]]) if match else [fill(item, values)]
