"""google.protobuf.Struct and plain Python: how fields without one of their own travel in typed messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from google.protobuf import json_format, struct_pb2

_EXACT_INTEGERS: Final = 2**53


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

    Raises json_format.ParseError for a value that no Struct holds.
    """
    rest = {name: value for name, value in fields.items() if name not in known and value is not None}
    return json_format.ParseDict(rest, struct_pb2.Struct()) if rest else None
