"""Mistral's OCR: what the gateway reads of it, and what it writes: as little as it needs, without copying documents.

Source: https://docs.mistral.ai/api/endpoint/ocr
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from common.dialects import lenient_json
from common.dialects.dialect import Progress, Usage
from common.dialects.document_url import is_data, is_image
from common.dialects.json_errors import json_refusal
from common.dialects.raw_fields import fields_of
from common.errors import InvalidRequest, TurnpikeError, openai_body
from common.metering.record import UsageSource
from common.metering.units import MOST_OF_A_UNIT, Unit
from common.upstream.http import Body

Pieces: TypeAlias = tuple[bytes | memoryview, ...]

# Longer than any URL that servers take: what goes on after this is a data URL, and its begin says what it is.
_URL_HEAD_BYTES: Final = 4096
# The longest that one character can be in JSON: two escaped halves of a surrogate pair.
_LONGEST_CHARACTER: Final = 12
_TYPES: Final = {
    b"{": "an object",
    b"[": "an array",
    b'"': "a string",
    b"t": "a boolean",
    b"f": "a boolean",
    b"n": "null",
}


class OcrRequest:
    """A request whose body is in pieces that are views of what came in."""

    is_stream = False
    max_tokens = None
    temperature = None
    top_p = None

    def __init__(self, *, model: str, fields: Mapping[str, Pieces], body: bytes | memoryview | None) -> None:
        self.model = model
        self._fields = fields
        self._body = body

    def body(self, *, model: str, ask_usage: bool) -> Body:
        """Return the body for ``model``: the very one that came when nothing must change."""
        if self._body is not None and model == self.model:
            return self._body
        return tuple(_object({**self._fields, "model": (msgspec.json.encode(model),)}))

    def reader(self) -> OcrReader:
        """Return a reader for one answer."""
        return OcrReader()


class OcrReader:
    """Reads one answer. Pages that a provider does not count are not known: nothing here can estimate them."""

    finished = False

    def __init__(self) -> None:
        self._usage = Usage()

    def feed(self, data: bytes) -> Progress:
        """Return NONE: there are no streams of OCR."""
        return Progress.NONE

    def read_body(self, body: bytes) -> Progress:
        """Read a whole answer: an object with pages or their count; one with an error failed."""
        answer = _answer(body)
        if answer is None:
            return Progress.NONE
        info = answer.usage_info
        if not bytes(answer.pages) and info is None:
            return Progress.ERROR if answer.error or answer.message or answer.detail else Progress.NONE
        pages = _count(info.get("pages_processed")) if isinstance(info, dict) else None
        self._usage = Usage(
            {} if pages is None else {Unit.PAGES: pages},
            UsageSource.NONE if pages is None else UsageSource.PROVIDER,
            upstream_model=answer.model if isinstance(answer.model, str) else "",
        )
        return Progress.CONTENT

    def usage(self) -> Usage:
        """Return the pages that the provider says it read."""
        return self._usage


class MistralOcr:
    """The dialect of POST /v1/ocr; ``default_model`` is that of requests that name none."""

    name: Final = "mistral_ocr"
    operation: Final = "ocr"
    request_headers: Final = ()

    def __init__(self, *, default_model: str) -> None:
        self._default_model = default_model

    def read(self, body: bytes | memoryview) -> OcrRequest:
        """Read a request; raises InvalidRequest that says what is wrong and where.

        A missing model is filled in and a bare ``url`` becomes a document; every other field keeps its bytes.
        """
        fields = _fields(body)
        named = _checked(fields, "model", b'"')
        model = self._default_model if named is None else _string(named, "model")
        if not model:
            raise InvalidRequest("'model' must not be empty.", param="model")
        document = _document(fields)
        changed: dict[str, Pieces] = {name: (memoryview(value),) for name, value in fields.items()}
        if document is not None:
            del changed["url"]
            changed["document"] = document
        return OcrRequest(model=model, fields=changed, body=None if named is None or document is not None else body)

    def error_event(self, error: TurnpikeError) -> bytes:
        """Return the envelope as an event."""
        return b"data: " + openai_body(error) + b"\n\n"


class _Answer(msgspec.Struct):
    """An answer, whose pages may be megabytes of images: they are skipped, not read."""

    model: Any = None
    pages: msgspec.Raw = msgspec.Raw(b"")
    usage_info: Any = None
    error: Any = None
    message: Any = None
    detail: Any = None


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_STRING: Final = msgspec.json.Decoder(str)


def _fields(body: bytes | memoryview) -> dict[str, msgspec.Raw]:
    try:
        return fields_of(body)
    except (ValueError, RecursionError) as error:
        if not bytes(body[:4096]).strip():
            raise InvalidRequest("The request body is empty; send a JSON object.", code="empty_body") from None
        raise json_refusal(error) from None


def _answer(body: bytes) -> _Answer | None:
    """Return what an answer reports, None when it is no JSON object."""
    try:
        return _ANSWER.decode(body)
    except (ValueError, RecursionError):
        pass
    try:
        value = lenient_json.decode(body)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    known = {name: value.get(name) for name in ("model", "usage_info", "error", "message", "detail")}
    return _Answer(pages=msgspec.Raw(b"[]" if "pages" in value else b""), **known)


def _document(fields: Mapping[str, msgspec.Raw]) -> Pieces | None:
    """Return the document that the bare ``url`` stands for, None when the body has a document of its own."""
    given = [_checked(fields, "document", b"{"), _checked(fields, "documents", b"[")]
    if any(value is not None for value in given):
        return None
    url = _checked(fields, "url", b'"')
    if url is None:
        raise InvalidRequest(
            "You must provide 'document', 'documents' or 'url'.", param="document", code="missing_required_parameter"
        )
    head = _url_head(url)
    if not head.strip():
        raise InvalidRequest("'url' must not be empty.", param="url")
    kind = b"image_url" if is_image(head) else b"document_url"
    return b'{"type":"%b","%b":' % (kind, kind), memoryview(url), b"}"


def _checked(fields: Mapping[str, msgspec.Raw], name: str, first: bytes) -> msgspec.Raw | None:
    """Return the field, None when it is missing or null; raises InvalidRequest unless it begins with ``first``."""
    value = fields.get(name)
    if value is None:
        return None
    got = bytes(memoryview(value)[:1])
    if got == b"n":
        return None
    if got != first:
        what = f"Expected {_TYPES[first]}, got {_TYPES.get(got, 'a number')}"
        raise InvalidRequest(f"Invalid type for '{name}': {what}.", param=name, code="invalid_type")
    return value


def _url_head(url: msgspec.Raw) -> str:
    """Return enough of the URL to tell what it is: without decoding the megabytes of a data URL."""
    raw = memoryview(url)
    if len(raw) > _URL_HEAD_BYTES:
        # The cut may go through a character, which then is left out.
        for end in range(_URL_HEAD_BYTES, _URL_HEAD_BYTES - _LONGEST_CHARACTER, -1):
            try:
                head = _STRING.decode(bytes(raw[:end]) + b'"')
            except ValueError:
                continue
            if is_data(head):
                return head
            break
    return _string(url, "url")


def _string(value: msgspec.Raw, name: str) -> str:
    try:
        return _STRING.decode(value)
    except ValueError:
        raise InvalidRequest(f"'{name}' is not valid UTF-8.", param=name, code="invalid_json") from None


def _object(fields: Mapping[str, Pieces]) -> Iterable[bytes | memoryview]:
    before = b"{"
    for name, value in fields.items():
        yield before + msgspec.json.encode(name) + b":"
        yield from value
        before = b","
    yield b"}"


def _count(value: Any) -> int | None:
    """Return a count of pages that came as a number or, as some servers send it, in a string."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value.strip()[:20])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_OF_A_UNIT
    return value if known else None
