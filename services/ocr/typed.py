"""Typed OCR messages to Mistral's JSON and back; unknown fields travel in ``extra``."""

from __future__ import annotations

import binascii
import re
from typing import Any, Final

import msgspec
from google.protobuf import json_format

from common.errors import InvalidRequest, UpstreamFailed
from common.serving.struct_json import extra, plain
from turnpike.ocr.v1 import ocr_pb2

_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+", re.IGNORECASE)
_PAGE_FIELDS: Final = ("index", "markdown", "images", "dimensions")
_DIMENSIONS: Final = ("dpi", "height", "width")
_CORNERS: Final = ("top_left_x", "top_left_y", "bottom_right_x", "bottom_right_y")
_WRONG_SHAPE: Final = (ValueError, TypeError, AttributeError, OverflowError, json_format.ParseError)


def request_body(request: ocr_pb2.ProcessDocumentRequest) -> bytes:
    """Return Mistral's request; raises InvalidRequest for an inline document whose media type is none."""
    fields: dict[str, Any] = plain(request.extra)
    kind = request.WhichOneof("document")
    if kind == "inline":
        fields["document"] = _inline(request.inline)
    elif kind == "url":
        fields["url"] = request.url
    elif kind is not None:
        fields["document"] = {"type": kind.removesuffix("_id"), kind: getattr(request, kind)}
    if request.model:
        fields["model"] = request.model
    if request.pages:
        fields["pages"] = list(request.pages)
    if request.HasField("include_image_base64"):
        fields["include_image_base64"] = request.include_image_base64
    return msgspec.json.encode(fields)


def response(body: bytes) -> ocr_pb2.ProcessDocumentResponse:
    """Return the typed form of Mistral's answer; raises UpstreamFailed when it has another shape."""
    try:
        answer = msgspec.json.decode(body)
        usage = answer.get("usage_info") or {}
        return ocr_pb2.ProcessDocumentResponse(
            pages=[_page(page) for page in answer.get("pages") or ()],
            model=answer.get("model") or "",
            pages_processed=_whole(usage.get("pages_processed")),
            document_bytes=_whole(usage.get("doc_size_bytes")),
            document_annotation=answer.get("document_annotation") or "",
        )
    except _WRONG_SHAPE:
        raise UpstreamFailed("The provider's answer is not a read document.", code="upstream_malformed") from None


def _inline(document: ocr_pb2.InlineDocument) -> msgspec.Raw:
    media_type = document.media_type or "application/pdf"
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidRequest("'inline.media_type' must be a media type.", param="inline.media_type")
    kind = b"image_url" if media_type.lower().startswith("image/") else b"document_url"
    # Put together by hand: an encoder would look at each of the millions of characters, all of them harmless.
    data = binascii.b2a_base64(document.data, newline=False)
    return msgspec.Raw(b'{"type":"%b","%b":"data:%b;base64,%b"}' % (kind, kind, media_type.encode(), data))


def _page(page: dict[str, Any]) -> ocr_pb2.Page:
    size = page.get("dimensions")
    return ocr_pb2.Page(
        index=int(page.get("index") or 0),
        markdown=page.get("markdown") or "",
        images=[_image(image) for image in page.get("images") or ()],
        dimensions=size and ocr_pb2.PageDimensions(**{name: int(size.get(name) or 0) for name in _DIMENSIONS}),
        extra=extra(page, known=_PAGE_FIELDS),
    )


def _image(image: dict[str, Any]) -> ocr_pb2.PageImage:
    return ocr_pb2.PageImage(
        id=image.get("id") or "",
        image_base64=image.get("image_base64") or "",
        image_annotation=image.get("image_annotation") or "",
        **{corner: _whole(image.get(corner)) for corner in _CORNERS},
    )


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
