"""Path templates of google.api.http, as Envoy's routes need them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_VARIABLE = re.compile(r"\{([^{}=]+)(?:=([^{}]*))?\}")
_ONE, _REST = "*", "**"


@dataclass(frozen=True)
class PathTemplate:
    """A path template such as ``/v1/api-tokens/{token_id}`` or ``/v1/chroma/**``.

    Its grammar: https://github.com/googleapis/googleapis/blob/master/google/api/http.proto
    """

    text: str

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The request's fields that the path fills, such as ``token_id``."""
        return tuple(match[1] for match in _VARIABLE.finditer(self.text))

    @cached_property
    def _segments(self) -> tuple[str, ...]:
        plain = _VARIABLE.sub(lambda match: match[2] or _ONE, self.text)
        return tuple(plain.removeprefix("/").split("/"))

    @property
    def is_exact(self) -> bool:
        """Whether exactly one path fits."""
        return not any(_ONE in segment for segment in self._segments)

    @cached_property
    def regex(self) -> str:
        """A regular expression, in RE2's syntax, that the whole path must match."""
        return "".join(_segment_regex(segment) for segment in self._segments)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Sorts the more specific of two templates first: literals before ``*`` before ``**``."""
        return tuple(2 if _REST in segment else int(_ONE in segment) for segment in self._segments)


def _segment_regex(segment: str) -> str:
    # ** stands for any number of segments, none included: /v1/chroma/** fits /v1/chroma.
    if segment == _REST:
        return "(/.*)?"
    # A verb may follow: /v1/things/*:cancel.
    name, colon, verb = segment.partition(":")
    body = "[^/]+" if name == _ONE else re.escape(name)
    return f"/{body}{colon}{re.escape(verb)}"
