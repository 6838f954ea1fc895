import math
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example as tried
from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.schema import UnsatisfiableError, example


def accepts(schema: Any, value: Any) -> bool:
    """Validate with the keywords that the generated schemas use."""
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(accepts(choice, value) for choice in schema["anyOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return any(_accepts_kind(schema, value, kind) for kind in kinds)


def _accepts_kind(schema: Any, value: Any, kind: str) -> bool:
    if kind == "object":
        return isinstance(value, dict) and all(
            key in value and accepts(schema["properties"][key], value[key]) for key in schema["required"]
        )
    if kind == "array":
        return (
            isinstance(value, list)
            and len(value) >= schema["minItems"]
            and all(accepts(schema["items"], item) for item in value)
        )
    if kind == "string":
        return isinstance(value, str) and schema["minLength"] <= len(value) <= schema["maxLength"]
    if kind == "integer":
        return (
            isinstance(value, int)
            and schema["minimum"] <= value < schema["exclusiveMaximum"]
            and value % schema.get("multipleOf", 1) == 0
        )
    if kind == "number":
        return isinstance(value, (int, float)) and schema["exclusiveMinimum"] < value < schema["exclusiveMaximum"]
    return value is None if kind == "null" else isinstance(value, bool)


strings = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(
    lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}
)
integers = st.tuples(st.integers(-(10**6), 10**6), st.integers(1, 9), st.booleans()).map(
    lambda one: {
        "type": ["null", "integer"] if one[2] else "integer",
        "minimum": one[0],
        "exclusiveMaximum": one[0] + one[1],
        "multipleOf": one[1],
    }
)
numbers = st.tuples(st.integers(-1000, 1000), st.integers(1, 1000)).map(
    lambda pair: {"type": "number", "exclusiveMinimum": pair[0], "exclusiveMaximum": pair[0] + pair[1] / 1000}
)
enums = st.lists(st.integers() | st.text() | st.none(), min_size=1).map(lambda values: {"enum": values})
leaves = strings | integers | numbers | enums | st.sampled_from([{"type": "boolean"}, {"type": "null"}])


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(st.text(max_size=5), inner, max_size=4).map(
        lambda properties: {"type": "object", "properties": properties, "required": list(properties)}
    )
    arrays = st.tuples(inner, st.integers(0, 3)).map(
        lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1]}
    )
    return objects | arrays | st.lists(inner, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices})


@given(st.recursive(leaves, nested, max_leaves=10))
def test_a_schema_accepts_its_example(schema: Any) -> None:
    assert accepts(schema, example(schema))


KEYWORDS = [
    "type", "properties", "required", "items", "anyOf", "allOf", "$ref", "minItems", "pattern", "minimum", "enum",
    "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "prefixItems", "uniqueItems", "const", "minProperties",
]  # fmt: skip
nonsense = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["object", "array", "integer"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYWORDS), inner),
)


@given(nonsense)
@tried({"pattern": "[[]]"})  # Python's re warns of it.
@tried({"pattern": "\ud800"})
def test_nonsense_is_refused_and_never_breaks(schema: Any) -> None:
    with suppress(UnsatisfiableError):
        example(schema)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "text"),
        ({"const": 7}, 7),
        ({"type": "string", "format": "email"}, "someone@example.com"),
        ({"type": "string", "pattern": "^[0-9]{5}$"}, "12345"),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "minimum": 2.5}, 3),
        ({"type": "integer", "exclusiveMinimum": 4, "multipleOf": 5}, 5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"oneOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"allOf": [{"properties": {"a": {"type": "null"}}, "required": ["a"]}, {"required": ["b"]}]},
         {"a": None, "b": "b"}),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 2}, [1, 2]),
        ({"type": "array", "uniqueItems": True, "minItems": 2, "items": {"type": "string"}}, ["text", "text 2"]),
        ({"type": "array", "maxItems": 0}, []),
        ({"properties": {"a": {"$ref": "#/$defs/x~1y"}}, "$defs": {"x/y": {"type": "integer"}}}, {"a": 0}),
        ({"type": "object", "properties": {"a": False, "b": {"type": "null"}}}, {"b": None}),
    ],
)  # fmt: skip
def test_each_keyword(schema: Any, expected: Any) -> None:
    assert example(schema) == expected


@pytest.mark.parametrize("pattern", ["(a*)*(a*)*(a*)*$", "((a{0,30}){0,30}){0,30}", "(x+x+)+y", "(.*)*" * 199 + "~"])
def test_a_pattern_costs_little_time(pattern: str) -> None:
    began = time.process_time()
    with suppress(UnsatisfiableError):
        example({"type": "string", "pattern": pattern, "minLength": 40}, name="a" * 1_000)
    assert time.process_time() - began < 1


def test_a_recursive_schema_ends() -> None:
    node: Any = {
        "type": "object",
        "properties": {
            "value": {"type": "string"},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            "children": {"type": "array", "items": {"$ref": "#"}},
        },
        "required": ["value", "children"],
    }
    built = example(node)
    assert isinstance(built, dict)
    assert built["children"][0]["value"] == "value"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema"},
        {"properties": {"me": {"$ref": "#"}}, "required": ["me"]},
        {"type": "string", "pattern": "^this long text only$"},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "a" * 1_001},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"const": 1}},
        {"type": "integer", "minimum": 1, "maximum": 0},
        {"type": "integer", "multipleOf": 0, "minimum": 1},
        {"type": "integer", "minimum": math.inf},
        {"type": "integer", "maximum": math.nan},
        {"type": "number", "exclusiveMinimum": 10**400, "exclusiveMaximum": 10**401},
        {"type": "object", "minProperties": 1},
        {"type": "nothing"},
        {"type": 4},
        {"enum": []},
        {"anyOf": [{"enum": []}]},
        {"minimum": "1", "type": "number"},
        {"minLength": -1},
        {"required": "a"},
        {"properties": []},
        False,
        None,
    ],
)
def test_what_cannot_be_built_is_refused(schema: Any) -> None:
    with pytest.raises(UnsatisfiableError):
        example(schema)
