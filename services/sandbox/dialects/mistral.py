"""Reads requests of Mistral's OCR; the answers are in `mistral_answer`.

Models: any name is accepted but `missing-model`. What follows a `?` in a model is its faults. As Mistral does, unknown
fields are refused, and so is a request without a model. The sandbox has no confidence scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from services.sandbox.checks import Refused, converted, missing
from services.sandbox.dialects.openai import MISSING_MODEL
from services.sandbox.documents import unreadable
from services.sandbox.schema import Schema

_RANGE: Final = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?")
_MAX_PAGES: Final = 10_000


class _ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class _Document(msgspec.Struct):
    """Mistral takes a document without its type, as long as one of the three is there."""

    type: Literal["document_url", "image_url", "file"] | None = None
    document_url: str | None = None
    image_url: str | _ImageUrl | None = None
    file_id: str | None = None
    document_name: str | None = None


class _JsonSchema(msgspec.Struct):
    name: str = ""
    schema: dict[str, Any] | None = None


class _Format(msgspec.Struct):
    json_schema: _JsonSchema
    type: Literal["json_schema"] | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    document: _Document
    pages: str | list[Annotated[int, Meta(ge=0, lt=_MAX_PAGES)]] | None = None
    include_image_base64: bool | None = None
    image_limit: Annotated[int, Meta(ge=0)] | None = None
    image_min_size: Annotated[int, Meta(ge=0)] | None = None
    bbox_annotation_format: _Format | None = None
    document_annotation_format: _Format | None = None
    document_annotation_prompt: str | None = None
    table_format: Literal["markdown", "html"] | None = None
    extract_header: bool | None = None
    extract_footer: bool | None = None
    include_blocks: bool | None = None
    confidence_scores_granularity: str | None = None
    id: str | None = None
    sandbox: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrRequest:
    """A request that was found valid; `choose` picks pages by their number, an image without a limit has no limit."""

    model: str
    url: str
    is_image: bool
    choose: Callable[[int], Sequence[int]]
    include_image_base64: bool
    include_blocks: bool
    image_limit: int | None
    image_min_size: int
    image_schema: Schema | None
    document_schema: Schema | None


def read_model(body: Mapping[str, Any]) -> str:
    """Read the model, which the faults may be in; raises Refused."""
    model = body.get("model")
    if not model or not isinstance(model, str):
        raise missing("model")
    if model.partition("?")[0] == MISSING_MODEL:
        raise Refused(f"Invalid model: {MISSING_MODEL}", kind="invalid_model", code="1500")
    return model


def read_ocr(values: Mapping[str, Any], *, model: str) -> OcrRequest:
    """Read a request; raises Refused for what Mistral would refuse, too."""
    body = converted(values, _Body)
    if body.confidence_scores_granularity is not None:
        raise Refused("The sandbox has no confidence scores.", param="confidence_scores_granularity")
    if body.document_annotation_prompt is not None and body.document_annotation_format is None:
        raise Refused("document_annotation_format must be provided", param="document_annotation_prompt")
    url, is_image = _document(body.document)
    return OcrRequest(
        model=model,
        url=url,
        is_image=is_image,
        choose=_pages(body.pages),
        include_image_base64=body.include_image_base64 is True,
        include_blocks=body.include_blocks is True,
        image_limit=body.image_limit,
        image_min_size=body.image_min_size or 0,
        image_schema=_schema(body.bbox_annotation_format),
        document_schema=_schema(body.document_annotation_format),
    )


def _document(document: _Document) -> tuple[str, bool]:
    """Return the document's URL, and whether it is an image's."""
    image_url = document.image_url.url if isinstance(document.image_url, _ImageUrl) else document.image_url
    if document.file_id and document.type in (None, "file"):
        raise Refused("The sandbox keeps no files.", status=404, kind="not_found", code="3001")
    if document.document_url and document.type in (None, "document_url"):
        return document.document_url, False
    if image_url and document.type in (None, "image_url"):
        return image_url, True
    raise missing(f"document.{document.type or 'document_url'}")


def _schema(wanted: _Format | None) -> Schema | None:
    return None if wanted is None else wanted.json_schema.schema or {}


def _pages(wanted: str | list[int] | None) -> Callable[[int], Sequence[int]]:
    if wanted is None:
        return range
    chosen = sorted(_ranges(wanted) if isinstance(wanted, str) else set(wanted))

    def choose(count: int) -> Sequence[int]:
        if chosen and chosen[-1] >= count:
            beyond = next(number for number in chosen if number >= count)
            raise unreadable(f"Page {beyond} does not exist: the document has {count}, counted from 0.")
        return chosen

    return choose


def _ranges(wanted: str) -> set[int]:
    found: set[int] = set()
    for part in wanted.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < _MAX_PAGES:
            raise Refused("Expected numbers and ranges such as '0-2,5'.", param="pages")
        found.update(range(first, last + 1))
    return found
