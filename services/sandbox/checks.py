"""Reads the fields of a request and refuses wrong ones in the way OpenAI does."""

from collections.abc import Mapping, Sequence

import msgspec

_TYPE_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    type(None): "null",
}


class Refused(Exception):
    """A request that is answered with an error: `status` is the HTTP status, the rest fills the dialect's envelope."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code


class Fields:
    """One JSON object of a request; every reader raises `Refused` that names the field, and takes null as absent."""

    def __init__(self, values: Mapping[str, object], *, path: str = "") -> None:
        self.values = values
        self._path = path

    def path(self, name: str) -> str:
        """Return the full name of a field, such as `messages[0].role`."""
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        """Tell whether the field is there and not null."""
        return self.values.get(name) is not None

    def text(self, name: str, *, choices: Sequence[str] | None = None) -> str | None:
        """Read a string, one of `choices` where they are given."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong_type(name, expected="a string")
        if choices is not None and value not in choices:
            allowed = ", ".join(f"'{choice}'" for choice in choices)
            raise self.refuse(name, f"Invalid value: '{value}'. Supported values are: {allowed}.")
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Read a boolean."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong_type(name, expected="a boolean")
        return value

    def integer(self, name: str, *, low: int, high: int | None = None) -> int | None:
        """Read an integer between `low` and `high`, both included."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong_type(name, expected="an integer")
        self._in_range(name, value=value, low=low, high=high)
        return value

    def number(self, name: str, *, low: float, high: float) -> float | None:
        """Read a number between `low` and `high`, both included."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong_type(name, expected="a decimal")
        self._in_range(name, value=value, low=low, high=high)
        return float(value)

    def items(self, name: str) -> list[object]:
        """Read an array, empty when the field is absent."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong_type(name, expected="an array")
        return value

    def children(self, name: str) -> "list[Fields]":
        """Read an array of objects, empty when the field is absent."""
        found = []
        for index, item in enumerate(self.items(name)):
            if not isinstance(item, dict):
                raise self.wrong_type(f"{name}[{index}]", expected="an object", value=item)
            found.append(Fields(item, path=self.path(f"{name}[{index}]")))
        return found

    def child(self, name: str) -> "Fields | None":
        """Read an object."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong_type(name, expected="an object")
        return Fields(value, path=self.path(name))

    def missing(self, name: str) -> Refused:
        """Return the refusal of an absent field that must be there."""
        full = self.path(name)
        return Refused(f"Missing required parameter: '{full}'.", param=full, code="missing_required_parameter")

    def refuse(self, name: str, message: str, *, code: str = "invalid_value") -> Refused:
        """Return the refusal of a value, with a message of the caller."""
        return Refused(message, param=self.path(name), code=code)

    def wrong_type(self, name: str, *, expected: str, value: object = None) -> Refused:
        """Return the refusal of a value of the wrong JSON type."""
        got = _TYPE_NAMES.get(type(self.values.get(name, value)), "something else")
        message = f"Invalid type for '{self.path(name)}': expected {expected}, but got {got} instead."
        return self.refuse(name, message, code="invalid_type")

    def _in_range(self, name: str, *, value: float, low: float, high: float | None) -> None:
        full = self.path(name)
        if value < low:
            message = f"Invalid '{full}': below the minimum value. Expected a value >= {low}, but got {value} instead."
            raise self.refuse(name, message, code="below_min_value")
        if high is not None and value > high:
            message = f"Invalid '{full}': above the maximum value. Expected a value <= {high}, but got {value} instead."
            raise self.refuse(name, message, code="above_max_value")


def json_object(raw: bytes) -> dict[str, object]:
    """Decode a request body that must be one JSON object; raises `Refused`."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"We could not parse the JSON body of your request: {error}."
        raise Refused(message, code="invalid_json") from error
    if not isinstance(value, dict):
        got = _TYPE_NAMES.get(type(value), "something else")
        raise Refused(f"The body of the request must be a JSON object, but it is {got}.", code="invalid_type")
    return value
