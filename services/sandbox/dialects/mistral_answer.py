"""Writes answers of Mistral's OCR: the pages of a document, an error."""

from __future__ import annotations

import base64
from typing import Final, TypeAlias

import msgspec

from services.sandbox.checks import Refused
from services.sandbox.core import Usage
from services.sandbox.dialects.mistral import OcrRequest
from services.sandbox.documents import DPI, Document, PageContent
from services.sandbox.faults import Faults
from services.sandbox.schema import example
from services.sandbox.script import Headers, Script, error_script, json_script

Json: TypeAlias = dict[str, object]

# Type and code of Mistral's errors by status; every other status takes those of 400 or 500.
_ERRORS: Final = {
    400: ("invalid_request_error", "1000"),
    401: ("unauthorized", "1001"),
    404: ("not_found", "1002"),
    429: ("rate_limited", "1300"),
    500: ("internal_server_error", "1900"),
    503: ("service_unavailable", "1901"),
}


def ocr_script(
    request: OcrRequest, *, document: Document, faults: Faults, headers: Headers, echo: Json | None
) -> Script:
    """Make the script of the answer to a valid request."""
    body: Json = {
        "pages": [_page(page, request=request, document=document) for page in document.pages],
        "model": request.model,
        "document_annotation": _annotation(request.document_schema),
    }
    if not faults.no_usage:
        body["usage_info"] = {"pages_processed": len(document.pages), "doc_size_bytes": len(document.data)}
    if echo is not None:
        body["sandbox"] = echo
    usage = Usage(pages=len(document.pages))
    return json_script(body, faults=faults, usage=usage, error=fault_body(faults, status=500), headers=headers)


def refusal_script(refused: Refused, *, headers: Headers) -> Script:
    """Make the script of the answer to a request that is not valid: a list of details for a body of a wrong shape."""
    if refused.status == 400 and refused.kind == "invalid_request_error":
        detail = {"type": refused.code, "loc": ["body", *(refused.param or "").split(".")], "msg": refused.message}
        return error_script({"detail": [detail]}, status=422, faults=Faults(), headers=headers)
    body = _error(refused.message, kind=refused.kind, param=refused.param, code=refused.code)
    return error_script(body, status=refused.status, faults=Faults(), headers=headers)


def fault_script(faults: Faults, *, status: int, headers: Headers) -> Script:
    """Make the script of the error that the faults ask for."""
    return error_script(fault_body(faults, status=status), status=status, faults=faults, headers=headers)


def fault_body(faults: Faults, *, status: int) -> Json:
    """Return the error object that the faults ask for."""
    kind, code = _ERRORS.get(status, _ERRORS[500 if status >= 500 else 400])
    return _error(
        faults.error_message if faults.error_message is not None else f"The sandbox was asked to fail with {status}.",
        kind=faults.error_type or kind,
        param=None,
        code=faults.error_code or code,
    )


def _error(message: str, *, kind: str, param: str | None, code: str | None) -> Json:
    return {"object": "error", "message": message, "type": kind, "param": param, "code": code}


def _page(page: PageContent, *, request: OcrRequest, document: Document) -> Json:
    images = _images(request, document=document)
    markdown = page.text or "\n\n".join(f"![{image['id']}]({image['id']})" for image in images)
    content: Json = {
        "index": page.index,
        "markdown": markdown,
        "images": images,
        "tables": [],
        "hyperlinks": [],
        "header": None,
        "footer": None,
        "dimensions": {"dpi": DPI, "height": page.height, "width": page.width},
    }
    if request.include_blocks:
        content["blocks"] = [_block(page, markdown=markdown)] if markdown else []
    return content


def _block(page: PageContent, *, markdown: str) -> Json:
    block: Json = {
        "type": "text" if page.text else "image",
        "content": markdown,
        **_corners(page.width, page.height),
    }
    return block if page.text else {**block, "image_id": markdown.partition("[")[2].partition("]")[0]}


def _corners(width: int, height: int) -> Json:
    return {"top_left_x": 0, "top_left_y": 0, "bottom_right_x": width, "bottom_right_y": height}


def _images(request: OcrRequest, *, document: Document) -> list[Json]:
    image = document.image
    if image is None or request.image_limit == 0 or min(image.width, image.height) < request.image_min_size:
        return []
    data = f"data:{image.media_type};base64,{base64.b64encode(document.data).decode()}"
    return [
        {
            "id": f"img-0.{image.media_type.removeprefix('image/')}",
            **_corners(image.width, image.height),
            "image_base64": data if request.include_image_base64 else None,
            "image_annotation": _annotation(request.image_schema),
        }
    ]


def _annotation(schema: object) -> str | None:
    return None if schema is None else msgspec.json.encode(example(schema)).decode()
