"""Uses the gateway with the Mistral SDK, whichever major is on the path.

Run as a program, because two majors of one package cannot live in one interpreter: arguments are the base URL, a good
token, a token without the scope "ocr", the path of a PDF of three pages, the path of a PNG of 64 by 32 pixels. Prints a
line for each check and exits with 1 at the first that fails.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path
from typing import Any

from mistralai.client import Mistral
from mistralai.client._version import __version__ as version
from mistralai.client.errors import HTTPValidationError, SDKError

MODEL = "mistral-ocr-latest"


def check_pdf(answer: Any) -> None:
    """A PDF has its pages, their text and their sizes."""
    assert [page.markdown for page in answer.pages] == ["First page", "Second page", "Third page"]
    assert [page.index for page in answer.pages] == [0, 1, 2]
    assert answer.pages[0].dimensions.width == 1700
    assert answer.usage_info.pages_processed == 3
    assert answer.model == MODEL


def check_image(answer: Any) -> None:
    """An image is one page of its own size, and comes back when asked for."""
    (page,) = answer.pages
    assert (page.dimensions.width, page.dimensions.height) == (64, 32)
    assert page.images[0].image_base64.startswith("data:image/png;base64,")
    assert answer.usage_info.pages_processed == 1


def documents(pdf: Path, image: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return both files as the SDK's documents."""
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in (pdf, image)]
    return (
        {"type": "document_url", "document_url": f"data:application/pdf;base64,{encoded[0]}"},
        {"type": "image_url", "image_url": f"data:image/png;base64,{encoded[1]}"},
    )


def synchronous(client: Mistral, pdf: Any, image: Any) -> None:
    """Both documents, chosen pages, and no model at all."""
    check_pdf(client.ocr.process(model=MODEL, document=pdf))
    check_pdf(client.ocr.process(model=None, document=pdf))
    check_image(client.ocr.process(model=MODEL, document=image, include_image_base64=True))
    for pages in ([0, 2], "0,2-2"):
        some = client.ocr.process(model=MODEL, document=pdf, pages=pages)
        assert [page.index for page in some.pages] == [0, 2]
        assert some.usage_info.pages_processed == 2
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}}
    assert client.ocr.process(model=MODEL, document=pdf, document_annotation_format=form).document_annotation == "{}"


async def asynchronous(client: Mistral, pdf: Any, image: Any) -> None:
    """The asynchronous client does the same, many at once."""
    answers = await asyncio.gather(
        *(client.ocr.process_async(model=MODEL, document=pdf) for _ in range(5)),
        client.ocr.process_async(model=MODEL, document=image, include_image_base64=True),
    )
    for answer in answers[:-1]:
        check_pdf(answer)
    check_image(answers[-1])
    try:
        await client.ocr.process_async(model="missing-model", document=pdf)
    except SDKError as error:
        assert error.status_code == 400
        assert "Invalid model" in error.body
    else:
        raise AssertionError("nothing was raised")


def errors(url: str, token: str, unscoped: str, pdf: Any) -> None:
    """The gateway's and the provider's errors raise the SDK's own, with their status, body and request id."""
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        ("tp_nonsense", {}, 401, "authentication_error"),
        (unscoped, {}, 403, "insufficient_scope"),
        (token, {"model": "missing-model"}, 400, "1500"),
        (token, {"model": "m?status=429&retry_after=7"}, 429, "1300"),
        (token, {"model": "m?status=500"}, 500, "The sandbox was asked to fail"),
        (token, {"document": {"document_url": "https://example.com/a.pdf"}}, 400, "127.0.0.1"),
    ]
    for key, options, status, text in cases:
        with Mistral(api_key=key, server_url=url) as client:
            error = _raised(client, {"model": MODEL, "document": pdf, **options})
        assert isinstance(error, SDKError), error
        assert (error.status_code, text in error.body) == (status, True), error
        assert error.headers["x-request-id"], error
        if status == 429:
            assert error.headers["retry-after"] == "7"
    with Mistral(api_key=token, server_url=url) as client:
        invalid = _raised(client, {"model": MODEL, "document": pdf, "pages": "x"})
    assert isinstance(invalid, HTTPValidationError)
    assert invalid.data.detail
    assert invalid.data.detail[0].loc == ["body", "pages"]


def _raised(client: Mistral, request: dict[str, Any]) -> Exception:
    try:
        client.ocr.process(**request)
    except (SDKError, HTTPValidationError) as error:
        return error
    raise AssertionError("nothing was raised")


def main(url: str, token: str, unscoped: str, pdf: str, image: str) -> None:
    """Run every check."""
    files = documents(Path(pdf), Path(image))
    with Mistral(api_key=token, server_url=url) as client:
        synchronous(client, *files)
        print(version, "synchronous ok")
        asyncio.run(asynchronous(client, *files))
        print(version, "asynchronous ok")
    errors(url, token, unscoped, files[0])
    print(version, "errors ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
