"""What a provider is: data. One file for each that is more than "speaks OpenAI's API at this URL"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from pydantic import SecretStr

from common.errors import TurnpikeError
from common.redaction import without_secret
from common.upstream.http import UnreachableError


class Verdict(Enum):
    """What a failed attempt means for the request."""

    PASS_ON = auto()
    """The caller gets the failure: another attempt would fail in the same way, or be billed twice."""
    RETRY = auto()
    """The same deployment may be asked again: it has seen nothing of the request."""


@dataclass(frozen=True)
class Provider:
    """A provider of models; ``name`` is what events and metrics call it.

    ``speaks`` names the dialects that it speaks, each with its path under ``base_url``. ``asks_usage`` says whether it
    takes OpenAI's ``stream_options``. ``secret_forms`` finds what else than the key must not be shown to callers.
    """

    name: str
    base_url: str
    speaks: Mapping[str, str]
    api_key: SecretStr
    asks_usage: bool = True
    secret_forms: re.Pattern[bytes] | None = None

    def url(self, dialect: str) -> str:
        """Return where requests in the dialect go."""
        return f"{self.base_url}{self.speaks[dialect]}"

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers of each request, which identify the operator."""
        key = self.api_key.get_secret_value()
        identity = {"authorization": f"Bearer {key}"} if key else {}
        return {"content-type": "application/json", **identity}

    def verdict(self, failure: TurnpikeError) -> Verdict:
        """Say what a failure before the answer began means: only a provider that saw nothing is asked again."""
        return Verdict.RETRY if isinstance(failure, UnreachableError) else Verdict.PASS_ON

    def scrub(self, body: bytes) -> bytes:
        """Return an error's body without anything that the operator keeps secret."""
        body = without_secret(body, self.api_key.get_secret_value())
        return body if self.secret_forms is None else self.secret_forms.sub(rb"\1***", body)
