"""What the gateway reads of Mistral's OCR, and what it writes: as little as it needs, without copying documents.

Source: https://docs.mistral.ai/api/endpoint/ocr
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from common.dialects.document_url import is_data, is_image
from common.dialects.json_errors import json_refusal
from common.errors import InvalidRequest

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


@dataclass(frozen=True, slots=True)
class OcrRequest:
    """A request that can be sent: its model, and its body in pieces that are views of what came in."""

    model: str
    body: Pieces


@dataclass(frozen=True, slots=True)
class Processed:
    """What an answer reports; ``pages`` is None when it does not say."""

    pages: int | None = None
    model: str = ""


class _UsageInfo(msgspec.Struct):
    pages_processed: Any = None


class _Answer(msgspec.Struct):
    model: Any = None
    usage_info: msgspec.Raw = msgspec.Raw(b"null")


_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANSWER: Final = msgspec.json.Decoder(_Answer)
_USAGE_INFO: Final = msgspec.json.Decoder(_UsageInfo)
_STRING: Final = msgspec.json.Decoder(str)


def parse_request(body: bytes | memoryview, *, default_model: str) -> OcrRequest:
    """Return the request; raises InvalidRequest that says what is wrong and where.

    A body with a model and a document comes back as the one piece that it is. A missing model is filled in and a bare
    ``url`` becomes a document; every other field keeps its bytes.
    """
    fields = _fields(body)
    named = _checked(fields, "model", b'"')
    model = default_model if named is None else _string(named, "model")
    if not model:
        raise InvalidRequest("'model' must not be empty.", param="model")
    document = _document(fields)
    if named is not None and document is None:
        return OcrRequest(model, (body,))
    changed: dict[str, Pieces] = {name: (memoryview(value),) for name, value in fields.items()}
    if document is not None:
        del changed["url"]
        changed["document"] = document
    if named is None:
        changed["model"] = (msgspec.json.encode(model),)
    return OcrRequest(model, tuple(_object(changed)))


def parse_answer(body: bytes) -> Processed:
    """Return what an answer reports; one that cannot be read reports nothing, and its caller gets it all the same."""
    try:
        answer = _ANSWER.decode(body)
    except (ValueError, RecursionError):
        return Processed()
    model = answer.model if isinstance(answer.model, str) else ""
    try:
        return Processed(_count(_USAGE_INFO.decode(answer.usage_info).pages_processed), model)
    except (ValueError, RecursionError):
        return Processed(None, model)


def _fields(body: bytes | memoryview) -> dict[str, msgspec.Raw]:
    try:
        return _FIELDS.decode(body)
    except (ValueError, RecursionError) as error:
        if not bytes(body[:4096]).strip():
            raise InvalidRequest("The request body is empty; send a JSON object.", code="empty_body") from None
        raise json_refusal(error) from None


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
        value = int(value[:20])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    known = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if known else None
