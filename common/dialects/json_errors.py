"""What is wrong with a JSON body, in words for whoever sent it."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from common.errors import InvalidRequest

_PLACE: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `([^`]+)`")


def json_refusal(error: ValueError | RecursionError) -> InvalidRequest:
    """Return the error to raise for a body that a typed decoder refused; ``param`` is the place in it."""
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequest(f"The request body is not valid JSON: {error}.", code="invalid_json")
    problem = str(error)
    missing = _MISSING.match(problem)
    if missing:
        return InvalidRequest(f"You must provide '{missing[1]}'.", param=missing[1], code="missing_required_parameter")
    place = _PLACE.search(problem)
    what = _PLACE.sub("", problem).replace("`", "'")
    if place is None or not place[1]:
        return InvalidRequest(f"The request body must be a JSON object: {what}.", code="invalid_type")
    return InvalidRequest(f"Invalid type for '{place[1]}': {what}.", param=place[1], code="invalid_type")
