"""Typed OCR messages to Mistral's JSON and back; unknown fields travel in ``extra``."""

from __future__ import annotations

import binascii
import re
from typing import Any, Final

import msgspec

from common.dialects import lenient_json
from common.errors import InvalidRequest, UpstreamMalformed
from common.serving.struct_json import count, extra, objects, plain, text
from turnpike.ocr.v1 import ocr_pb2

_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+", re.IGNORECASE)
_PAGE_FIELDS: Final = ("index", "markdown", "images", "dimensions")
_DIMENSIONS: Final = ("dpi", "height", "width")
_CORNERS: Final = ("top_left_x", "top_left_y", "bottom_right_x", "bottom_right_y")
_INT64_MAX: Final = 2**63 - 1


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
    """Return the typed form of Mistral's answer; raises UpstreamMalformed when it is no object."""
    try:
        answer = lenient_json.decode(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise UpstreamMalformed("The provider's answer is not a read document.")
    info = answer.get("usage_info")
    usage = info if isinstance(info, dict) else {}
    return ocr_pb2.ProcessDocumentResponse(
        pages=[_page(page) for page in objects(answer.get("pages"))],
        model=text(answer.get("model")),
        pages_processed=_known_count(usage.get("pages_processed")),
        document_bytes=_known_count(usage.get("doc_size_bytes"), most=_INT64_MAX),
        document_annotation=text(answer.get("document_annotation")),
    )


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
        index=count(page.get("index")),
        markdown=text(page.get("markdown")),
        images=[_image(image) for image in objects(page.get("images"))],
        dimensions=ocr_pb2.PageDimensions(**{name: count(size.get(name)) for name in _DIMENSIONS})
        if isinstance(size, dict)
        else None,
        extra=extra(page, known=_PAGE_FIELDS),
    )


def _image(image: dict[str, Any]) -> ocr_pb2.PageImage:
    return ocr_pb2.PageImage(
        id=text(image.get("id")),
        image_base64=text(image.get("image_base64")),
        image_annotation=text(image.get("image_annotation")),
        **{corner: _known_count(image.get(corner)) for corner in _CORNERS},
    )


def _known_count(value: Any, *, most: int = 2**31 - 1) -> int | None:
    return None if value is None else count(value, most=most)
