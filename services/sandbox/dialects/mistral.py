"""Reads requests of Mistral's OCR; the answers are in `mistral_answer`.

Models: any name is accepted but `missing-model`. What follows a `?` in a model is its faults. As Mistral does, unknown
fields are refused, and so is a request without a model.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.sandbox.checks import Fields, Refused
from services.sandbox.dialects.openai import MISSING_MODEL
from services.sandbox.documents import unreadable
from services.sandbox.schema import Schema

_KNOWN = frozenset(
    {
        *("model", "document", "pages", "include_image_base64", "image_limit", "image_min_size"),
        *("bbox_annotation_format", "document_annotation_format", "document_annotation_prompt", "table_format"),
        *("extract_header", "extract_footer", "include_blocks", "confidence_scores_granularity", "id", "sandbox"),
    }
)
_KINDS = ("document_url", "image_url", "file")
_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?")
_MAX_PAGES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrRequest:
    """A request that was found valid; `choose` picks pages by their number, an image without a limit has no limit."""

    model: str
    url: str
    wants_image: bool
    choose: Callable[[int], Sequence[int]]
    include_image_base64: bool
    include_blocks: bool
    granularity: str | None
    image_limit: int | None
    image_min_size: int
    image_schema: Schema | None
    document_schema: Schema | None


def read_model(body: Fields) -> str:
    """Read the model, which the faults may be in."""
    model = body.text("model")
    if not model:
        raise body.missing("model")
    if model.partition("?")[0] == MISSING_MODEL:
        raise Refused(f"Invalid model: {MISSING_MODEL}", kind="invalid_model", code="1500")
    return model


def read_ocr(body: Fields, *, model: str) -> OcrRequest:
    """Read a request; raises `Refused` for what Mistral would refuse too."""
    for name in body.values:
        if name not in _KNOWN:
            raise body.refuse(name, "Extra inputs are not permitted", code="extra_forbidden")
    kind, url = _document(body)
    document_schema = _schema(body, "document_annotation_format")
    if body.text("document_annotation_prompt") is not None and document_schema is None:
        raise body.refuse("document_annotation_prompt", "document_annotation_format must be provided")
    body.text("id")
    body.text("table_format", choices=("markdown", "html"))
    for name in ("extract_header", "extract_footer"):
        body.flag(name)
    return OcrRequest(
        model=model,
        url=url,
        wants_image=kind == "image_url",
        choose=_pages(body),
        include_image_base64=body.flag("include_image_base64"),
        include_blocks=body.flag("include_blocks"),
        granularity=body.text("confidence_scores_granularity", choices=("word", "page", "block")),
        image_limit=body.integer("image_limit", low=0),
        image_min_size=body.integer("image_min_size", low=0) or 0,
        image_schema=_schema(body, "bbox_annotation_format"),
        document_schema=document_schema,
    )


def _document(body: Fields) -> tuple[str, str]:
    document = body.child("document")
    if document is None:
        raise body.missing("document")
    # Mistral takes a document without its type, as long as one of the three is there.
    kind = document.text("type", choices=_KINDS) or next((name for name in _KINDS if document.has(name)), "file")
    if kind == "file":
        if not document.text("file_id"):
            raise document.missing("file_id")
        raise Refused("The sandbox keeps no files.", status=404, kind="not_found", code="3001")
    document.text("document_name")
    image = document.child(kind) if isinstance(document.values.get(kind), dict) else None
    url = document.text(kind) if image is None else image.text("url")
    if not url:
        raise document.missing(kind)
    return kind, url


def _schema(body: Fields, name: str) -> Schema | None:
    wanted = body.child(name)
    if wanted is None:
        return None
    wanted.text("type", choices=("json_schema",))
    named = wanted.child("json_schema")
    if named is None:
        raise wanted.missing("json_schema")
    schema = named.child("schema")
    return {} if schema is None else schema.values


def _pages(body: Fields) -> Callable[[int], Sequence[int]]:
    wanted = body.values.get("pages")
    if wanted is None:
        return range
    chosen = _ranges(body, wanted) if isinstance(wanted, str) else _numbers(body)

    def choose(count: int) -> Sequence[int]:
        beyond = [number for number in chosen if number >= count]
        if beyond:
            raise unreadable(f"Page {beyond[0]} does not exist: the document has {count}, counted from 0.")
        return chosen

    return choose


def _numbers(body: Fields) -> list[int]:
    found = set()
    for index, number in enumerate(body.items("pages")):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _MAX_PAGES:
            raise body.wrong_type(f"pages[{index}]", expected="the number of a page", value=number)
        found.add(number)
    return sorted(found)


def _ranges(body: Fields, wanted: str) -> list[int]:
    found: set[int] = set()
    for part in wanted.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < _MAX_PAGES:
            raise body.refuse("pages", "Expected numbers and ranges such as '0-2,5'.")
        found.update(range(first, last + 1))
    return sorted(found)
