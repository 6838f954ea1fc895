"""From a provider's JSON to typed messages: a field of an odd type never loses the others.

What a message has no field for travels in a google.protobuf.Struct.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from google.protobuf import json_format, struct_pb2

_EXACT_INTEGERS: Final = 2**53
# Protobuf reads messages nested a hundred deep; a level of JSON is three of them.
_DEPTH: Final = 24


def plain(value: Any) -> Any:
    """Return a Struct as plain Python, with whole numbers as integers: JSON schemas and counts need them so."""
    if isinstance(value, struct_pb2.Struct):
        return {name: plain(field) for name, field in value.fields.items()}
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain(value.struct_value)
    if kind == "list_value":
        return [plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT_INTEGERS else number
    return None if kind in (None, "null_value") else getattr(value, kind)


def extra(fields: Mapping[str, Any], *, known: Collection[str]) -> struct_pb2.Struct | None:
    """Return the fields that are not ``known`` and not null as a Struct, None when there are none.

    Numbers that JSON has and a Struct has not (NaN, infinity, integers of hundreds of digits) become text, and what is
    nested too deeply for a message is left out.
    """
    rest = {name: value for name, value in fields.items() if name not in known and value is not None}
    kept = {name: _within_a_struct(value, depth=_DEPTH) for name, value in rest.items()}
    return json_format.ParseDict(kept, struct_pb2.Struct()) if kept else None


def _within_a_struct(value: Any, *, depth: int) -> Any:
    if isinstance(value, dict):
        return {name: _within_a_struct(each, depth=depth - 1) for name, each in value.items()} if depth else None
    if isinstance(value, list):
        return [_within_a_struct(each, depth=depth - 1) for each in value] if depth else None
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT_INTEGERS:
        return str(value)
    return value


def text(value: Any) -> str:
    """Return a field of text: as it is, "" for null, and as JSON, if it can be, when it came as something else."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return ""


def count(value: Any, *, most: int = 2**32 - 1) -> int:
    """Return a field that holds a whole number, within 0 and ``most``; 0 when it came as something else."""
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    elif isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    return min(max(0, value), most) if type(value) is int else 0


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list, and none of what else is in it; empty when it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
