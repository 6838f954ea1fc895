"""Builds a small JSON value that a JSON Schema accepts; knows the keywords of function tools and structured outputs."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import re2

Schema: TypeAlias = Mapping[str, object]

_MAX_DEPTH: Final = 24
_OPTIONAL_ITEM_DEPTH: Final = 4
_MAX_LENGTH: Final = 100_000
_MAX_ITEMS: Final = 1_000
_MAX_NUMBER: Final = 1e300
_PATTERN_LENGTH: Final = 1_000
_PATTERN_BYTES: Final = 256 * 1024
_MATCHED_LENGTH: Final = 1_000
_EDGES: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
}
_FORMATS: Final = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "PT1M",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000001",
}
_PATTERN_CANDIDATES: Final = (
    "a",
    "A",
    "0",
    "1",
    "abc",
    "Abc",
    "ABC",
    "123",
    "12345",
    "a1",
    "A1",
    "abc-123",
    *_FORMATS.values(),
)


class UnsatisfiableError(Exception):
    """A schema for which the sandbox cannot build a value; the message says which part."""


def example(schema: object, *, name: str = "text") -> object:
    """Return a value that the schema accepts, with strings named after their property; raises `UnsatisfiableError`."""
    return _Builder(schema).build(schema, name=name, depth=0)


class _Builder:
    def __init__(self, root: object) -> None:
        self._root = root

    def build(self, schema: object, *, name: str, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise UnsatisfiableError(f"the schema of '{name}' is nested too deeply")
        if not isinstance(schema, dict):
            if schema is True:
                return name
            raise UnsatisfiableError(f"the schema of '{name}' is not an object")
        if "$ref" in schema:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return self.build(_merged(self._resolve(schema["$ref"]), rest), name=name, depth=depth + 1)
        if "const" in schema or "enum" in schema:
            return schema["const"] if "const" in schema else _first(schema["enum"], name=name)
        if "allOf" in schema:
            return self.build(self._all_of(schema, name=name), name=name, depth=depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._any_of(schema, keyword=keyword, name=name, depth=depth)
        return self._typed(schema, name=name, depth=depth)

    def _resolve(self, reference: object) -> object:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise UnsatisfiableError(f"the reference {reference!r} is not local")
        found = self._root
        for part in reference[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise UnsatisfiableError(f"the reference {reference!r} points to nothing")
            found = found[key]
        return found

    def _all_of(self, schema: Schema, *, name: str) -> object:
        merged: object = {key: value for key, value in schema.items() if key != "allOf"}
        for part in _list(schema["allOf"], name=name):
            merged = _merged(merged, self._resolve(part["$ref"]) if isinstance(part, dict) and "$ref" in part else part)
        return merged

    def _any_of(self, schema: Schema, *, keyword: str, name: str, depth: int) -> object:
        rest = {key: value for key, value in schema.items() if key != keyword}
        choices = _list(schema[keyword], name=name)
        choices.sort(key=lambda choice: isinstance(choice, dict) and choice.get("type") == "null")
        for choice in choices:
            try:
                return self.build(_merged(choice, rest), name=name, depth=depth + 1)
            except UnsatisfiableError:
                continue
        raise UnsatisfiableError(f"no choice of {keyword} in '{name}' can be built")

    def _typed(self, schema: Schema, *, name: str, depth: int) -> object:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = _first([one for one in kind if one != "null"] or kind, name=name)
        if kind == "object" or (kind is None and ("properties" in schema or "required" in schema)):
            return self._object(schema, name=name, depth=depth)
        if kind == "array" or (kind is None and "items" in schema):
            return self._array(schema, name=name, depth=depth)
        if kind == "string" or kind is None:
            return _string(schema, name=name)
        if kind in ("integer", "number"):
            return _number(schema, name=name, integral=kind == "integer")
        if kind == "boolean":
            return True
        if kind == "null":
            return None
        raise UnsatisfiableError(f"the type {kind!r} of '{name}' is unknown")

    def _object(self, schema: Schema, *, name: str, depth: int) -> dict[str, object]:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise UnsatisfiableError(f"the properties of '{name}' are not an object")
        required = [str(key) for key in _list(schema.get("required", []), name=name)]
        built: dict[str, object] = {}
        for key in required or properties:
            try:
                built[key] = self.build(properties.get(key, True), name=key, depth=depth + 1)
            except UnsatisfiableError:
                if key in required:
                    raise
        if len(built) < _bound(schema, "minProperties"):
            raise UnsatisfiableError(f"'{name}' needs more properties than it names")
        return built

    def _array(self, schema: Schema, *, name: str, depth: int) -> list[object]:
        fewest = _bound(schema, "minItems")
        most = _bound(schema, "maxItems", default=_MAX_ITEMS)
        if fewest > min(most, _MAX_ITEMS):
            raise UnsatisfiableError(f"'{name}' needs too many items")
        first = _list(schema.get("prefixItems", []), name=name)[:most]
        built = [self.build(item, name=name, depth=depth + 1) for item in first]
        wanted = max(fewest, min(most, 1 if depth < _OPTIONAL_ITEM_DEPTH else 0))
        while len(built) < wanted:
            item_name = name if not built else f"{name} {len(built) + 1}"
            try:
                built.append(self.build(schema.get("items", True), name=item_name, depth=depth + 1))
            except UnsatisfiableError:
                if len(built) < fewest:
                    raise
                break
        if schema.get("uniqueItems") is True and len({json.dumps(item, sort_keys=True) for item in built}) < len(built):
            raise UnsatisfiableError(f"'{name}' needs items that differ")
        return built


def _string(schema: Schema, *, name: str) -> str:
    shortest = _bound(schema, "minLength")
    longest = _bound(schema, "maxLength", default=_MAX_LENGTH)
    if shortest > min(longest, _MAX_LENGTH):
        raise UnsatisfiableError(f"'{name}' needs a string that is too long")
    wanted = _FORMATS.get(str(schema.get("format")), name)
    pattern = schema.get("pattern")
    if pattern is None:
        return wanted[:longest].ljust(shortest, "x")
    compiled = _compiled(str(pattern), name=name)
    for candidate in (wanted, *_PATTERN_CANDIDATES):
        if shortest <= len(candidate) <= min(longest, _MATCHED_LENGTH) and compiled.search(candidate):
            return candidate
    raise UnsatisfiableError(f"no string of the sandbox matches the pattern of '{name}'")


def _compiled(pattern: str, *, name: str) -> Any:
    """Compile a caller's regular expression.

    RE2's time is linear in the text and its memory is limited; Python's re would search for hours when asked to.
    """
    if len(pattern) > _PATTERN_LENGTH:
        raise UnsatisfiableError(f"the pattern of '{name}' is longer than {_PATTERN_LENGTH} characters")
    options = re2.Options()
    options.max_mem = _PATTERN_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except (re2.error, UnicodeError) as error:
        raise UnsatisfiableError(f"the pattern of '{name}' cannot be read: {error}") from error


def _number(schema: Schema, *, name: str, integral: bool) -> int | float:
    edges = {keyword: edge for keyword in _EDGES if (edge := _limit(schema, keyword, name=name)) is not None}
    step = _limit(schema, "multipleOf", name=name)
    if step is None and integral:
        step = 1
    candidates: list[int | float] = [0]
    for edge in edges.values():
        candidates += _near(edge, step=step)
    if edges and step is None:
        candidates.append(sum(edges.values()) / len(edges))
    for candidate in candidates:
        fits = all(_EDGES[keyword](candidate, edge) for keyword, edge in edges.items())
        if fits and (not integral or candidate == int(candidate)):
            return int(candidate) if integral else candidate
    raise UnsatisfiableError(f"no number of the sandbox fits '{name}'")


def _near(edge: int | float, *, step: int | float | None) -> list[int | float]:
    if step is None:
        return [edge, edge + 1, edge - 1]
    if step <= 0:
        return []
    try:
        count = edge // step if isinstance(edge, int) and isinstance(step, int) else math.floor(edge / step)
    except OverflowError:
        return []
    return [count * step, (count + 1) * step, (count - 1) * step]


def _limit(schema: Schema, keyword: str, *, name: str) -> int | float | None:
    value = schema.get(keyword)
    if value is None:
        return None
    # The edge of what adds and divides without an overflow; it keeps out infinity and NaN as well.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MAX_NUMBER:
        raise UnsatisfiableError(f"{keyword} of '{name}' is not a number that the sandbox can use")
    return value


def _bound(schema: Schema, keyword: str, *, default: int = 0) -> int:
    value = schema.get(keyword, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UnsatisfiableError(f"{keyword} is not a whole number")
    return value


def _list(value: object, *, name: str) -> list[object]:
    if not isinstance(value, list):
        raise UnsatisfiableError(f"a keyword of '{name}' is not an array")
    return list(value)


def _first(values: object, *, name: str) -> object:
    if not isinstance(values, list) or not values:
        raise UnsatisfiableError(f"'{name}' allows no value")
    return values[0]


def _merged(one: object, other: object) -> object:
    if one is True or one == {}:
        return other
    if other is True or other == {}:
        return one
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    merged = {**one, **other}
    for keyword in ("properties", "required"):
        first, second = one.get(keyword), other.get(keyword)
        if isinstance(first, dict) and isinstance(second, dict):
            merged[keyword] = {**first, **second}
        elif isinstance(first, list) and isinstance(second, list):
            merged[keyword] = [*first, *second]
    return merged
