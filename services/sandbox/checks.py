"""Decodes requests, and refuses wrong ones in the way that providers do."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")
_PLACE: Final = re.compile(r" - at `(?:key in )?\$\.?(.*)`\Z", re.DOTALL)
_FIELD: Final = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)


class Refused(Exception):
    """A request to answer with an error; ``status`` is the HTTP status, the rest fills the dialect's envelope."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = "invalid_value",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code


def missing(param: str) -> Refused:
    """Return the refusal of an absent field that must be there."""
    return Refused(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def json_object(raw: bytes) -> dict[str, Any]:
    """Decode a request body that must be one JSON object; raises Refused."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"We could not parse the JSON body of your request: {error}."
        raise Refused(message, code="invalid_json") from error
    if not isinstance(value, dict):
        raise Refused("The body of the request must be a JSON object.", code="invalid_type")
    return value


def converted(value: object, kind: type[T], *, path: str = "", strict: bool = True) -> T:
    """Convert decoded JSON to a type; raises Refused that names the wrong field, below ``path``.

    Without ``strict`` texts are converted to what they say.
    """
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        # Without a place it is the whole value that is wrong.
        what, place, *_ = [*_PLACE.split(str(error)), ""]
        field = _FIELD.fullmatch(what)
        # An index follows its array without a dot.
        parts = [path, place, field[1] if field else ""]
        param = ".".join(part for part in parts if part).replace(".[", "[")
        if field and "missing" in field[0]:
            raise missing(param) from error
        code = "invalid_type" if what.startswith("Expected `") else "invalid_value"
        message = f"Invalid value for '{param}': {what}."
        raise Refused(message, param=param or None, code="unknown_parameter" if field else code) from error
